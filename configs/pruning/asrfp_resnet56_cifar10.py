_base_ = ['dense_resnet56_cifar10.py', '_base_/asrfp.py']
