# VGG-16 with BN and five poolings.
_base_ = 'vgg13.py'
model = dict(backbone=dict(depth=16))
