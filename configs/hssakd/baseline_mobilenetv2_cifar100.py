_base_ = ['_base_/mobilenetv2.py', '_base_/schedule_240_light.py', '_base_/cifar100.py']
