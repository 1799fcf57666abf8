_base_ = ['../hssakd/_base_/wrn16_2.py', '_base_/cifar100.py']
