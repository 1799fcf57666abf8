_base_ = ['_base_/mcl_okd_cifar100.py', '../_base_/models/cifar/resnet110_bottleneck.py']
