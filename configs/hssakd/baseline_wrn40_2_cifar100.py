_base_ = ['_base_/wrn40_2.py', '_base_/schedule_240.py', '_base_/cifar100.py']
