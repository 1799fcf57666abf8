_base_ = ['../_base_/models/cifar/wrn40_1.py', '_base_/cifar100.py']
