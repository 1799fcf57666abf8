_base_ = ['../hssakd/_base_/resnet56.py', '_base_/cifar100.py', '_base_/mcl_x4.py']
