_base_ = ['_base_/cifar10_small.py', '../_base_/kd/dml.py']
kd = dict(channels_last=True)
