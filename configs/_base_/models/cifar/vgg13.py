# VGG-13 with BN.
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARVGG', depth=13),
    head=dict(in_channels=512, init_cfg=dict(type='Normal', layer='Linear', std=0.01)),
)
