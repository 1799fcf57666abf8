_base_ = ['_base_/resnet32x4.py', '_base_/schedule_240.py', '_base_/cifar100.py']
