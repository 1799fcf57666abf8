_base_ = ['_base_/cifar10_small_resnet18.py', '_base_/mcl.py']
kd = dict(channels_last=True)
