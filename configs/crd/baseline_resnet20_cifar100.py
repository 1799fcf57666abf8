_base_ = ['../_base_/models/cifar/resnet20.py', '_base_/cifar100.py']
