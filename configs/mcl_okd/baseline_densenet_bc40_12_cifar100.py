_base_ = ['_base_/cifar100.py', '../_base_/models/cifar/densenet_bc40_12.py']
