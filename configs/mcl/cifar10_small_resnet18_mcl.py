_base_ = ['cifar10_small_resnet18.py', '../_base_/kd/mcl.py']
kd = dict(channels_last=True)
