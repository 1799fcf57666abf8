# VGG-8 with BN.
_base_ = 'vgg13.py'
model = dict(backbone=dict(depth=8))
