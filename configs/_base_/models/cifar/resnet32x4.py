# ResNet-32x4.
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARResNet', depth=32, block='basic', widths=(32, 64, 128, 256)),
    head=dict(in_channels=256, init_cfg=None),
)
