_base_ = ['dense_resnet56_cifar100.py', '_base_/asfp.py']
