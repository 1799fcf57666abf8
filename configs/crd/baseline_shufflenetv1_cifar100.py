_base_ = ['../_base_/models/cifar/shufflenetv1.py', '_base_/cifar100_light.py']
