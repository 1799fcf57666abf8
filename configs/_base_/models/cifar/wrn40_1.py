# WRN-40-1.
_base_ = 'wrn16_2.py'
model = dict(backbone=dict(depth=40, widen_factor=1), head=dict(in_channels=64))
