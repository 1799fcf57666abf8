# Four networks that share stem and first stage.
_base_ = ['_base_/cifar10_small.py', '../_base_/kd/mcl_x4.py']
kd = dict(channels_last=True)
