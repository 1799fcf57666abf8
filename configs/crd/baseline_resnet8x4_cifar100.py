_base_ = ['../_base_/models/cifar/resnet8x4.py', '_base_/cifar100.py']
