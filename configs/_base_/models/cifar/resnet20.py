# ResNet-20.
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARResNet', depth=20, block='basic'),
    head=dict(in_channels=64, init_cfg=None),
)
