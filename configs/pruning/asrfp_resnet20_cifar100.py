_base_ = ['dense_resnet20_cifar100.py', '_base_/asrfp.py']
