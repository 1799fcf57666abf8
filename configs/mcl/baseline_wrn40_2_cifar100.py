_base_ = ['../hssakd/_base_/wrn40_2.py', '_base_/cifar100.py']
