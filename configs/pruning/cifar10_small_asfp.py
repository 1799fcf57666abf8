_base_ = ['_base_/cifar10_small.py', '_base_/asfp.py']
