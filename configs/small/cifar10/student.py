# ResNet-8 of half the width, 19,954 parameters: the baseline.
_base_ = '_base_.py'
model = dict(backbone=dict(depth=8, widths=(8, 8, 16, 32)), head=dict(in_channels=32))
