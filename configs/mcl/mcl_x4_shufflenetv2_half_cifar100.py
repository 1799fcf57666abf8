_base_ = ['_base_/shufflenetv2_half.py', '_base_/cifar100.py', '_base_/mcl_x4.py']
