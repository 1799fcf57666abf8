_base_ = ['../_base_/models/cifar/shufflenetv2_3x3.py', '_base_/cifar100.py']
