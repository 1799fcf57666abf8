_base_ = ['_base_/shufflenetv2.py', '_base_/cifar100.py']
