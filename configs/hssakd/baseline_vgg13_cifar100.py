_base_ = ['_base_/vgg13.py', '_base_/schedule_240.py', '_base_/cifar100.py']
