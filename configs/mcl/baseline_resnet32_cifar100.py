_base_ = ['_base_/resnet32.py', '_base_/cifar100.py']
