_base_ = ['dense_resnet110_cifar100.py', '_base_/srfp.py']
