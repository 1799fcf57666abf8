# The other network of the pairs.
_base_ = 'cifar10_small_alone.py'
model = dict(backbone=dict(depth=14))
