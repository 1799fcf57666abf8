_base_ = ['_base_/resnet56.py', '_base_/schedule_240.py', '_base_/cifar100.py']
