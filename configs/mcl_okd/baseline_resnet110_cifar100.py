# Of bottlenecks.
_base_ = ['_base_/cifar100.py', '../_base_/models/cifar/resnet110_bottleneck.py']
