_base_ = ['../_base_/models/cifar/resnet50.py', '_base_/cifar100.py']
