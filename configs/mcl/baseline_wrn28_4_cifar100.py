_base_ = ['../_base_/models/cifar/wrn28_4.py', '_base_/cifar100.py']
