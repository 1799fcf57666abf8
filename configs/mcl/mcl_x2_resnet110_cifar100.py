_base_ = ['_base_/resnet110.py', '_base_/cifar100.py', '_base_/mcl.py']
