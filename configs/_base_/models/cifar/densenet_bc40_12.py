# DenseNet-BC of depth 40 and growth 12.
_base_ = 'densenet40_12.py'
model = dict(backbone=dict(bottleneck=True), head=dict(in_channels=132))
