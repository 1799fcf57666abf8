_base_ = ['../_base_/models/cifar/resnet110_bottleneck.py', '_base_/cifar100.py']
