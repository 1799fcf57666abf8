_base_ = ['_base_/cifar10_small.py', '../_base_/kd/lmcl_uniform.py']
kd = dict(channels_last=True)
