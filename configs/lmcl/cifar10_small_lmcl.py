# A phase an epoch, which has 15 iterations.
_base_ = ['_base_/cifar10_small.py', '../_base_/kd/lmcl.py']
kd = dict(channels_last=True, meta=dict(every=15))
