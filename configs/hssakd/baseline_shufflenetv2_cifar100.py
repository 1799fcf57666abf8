_base_ = ['_base_/shufflenetv2.py', '_base_/schedule_240_light.py', '_base_/cifar100.py']
