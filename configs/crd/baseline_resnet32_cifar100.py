_base_ = ['../_base_/models/cifar/resnet32.py', '_base_/cifar100.py']
