_base_ = ['../_base_/models/cifar/shufflenetv2_1x1.py', '_base_/cifar100_light.py']
