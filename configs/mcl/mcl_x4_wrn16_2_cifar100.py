_base_ = ['../hssakd/_base_/wrn16_2.py', '_base_/cifar100.py', '_base_/mcl_x4.py']
