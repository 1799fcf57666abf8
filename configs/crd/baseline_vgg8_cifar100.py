_base_ = ['../_base_/models/cifar/vgg8.py', '_base_/cifar100.py']
