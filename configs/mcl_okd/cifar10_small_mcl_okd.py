_base_ = ['_base_/cifar10_small.py', '../_base_/kd/mcl_okd.py']
kd = dict(losses=dict(contrast=dict(num_samples=1000)), channels_last=True)
