# WRN-28-4.
_base_ = 'wrn16_2.py'
model = dict(backbone=dict(depth=28, widen_factor=4), head=dict(in_channels=256))
