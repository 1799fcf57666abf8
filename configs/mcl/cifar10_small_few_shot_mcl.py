_base_ = ['_base_/cifar10_small_few_shot.py', '../_base_/kd/mcl.py']
kd = dict(channels_last=True)
