_base_ = ['dense_resnet110_cifar10.py', '_base_/srfp.py']
