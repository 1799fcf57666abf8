# ResNet-26, the teacher of cifar10_small_srfp_kd.py.
_base_ = '_base_/cifar10_small.py'
model = dict(backbone=dict(depth=26))
