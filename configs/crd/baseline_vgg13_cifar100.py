_base_ = ['../_base_/models/cifar/vgg13.py', '_base_/cifar100.py']
