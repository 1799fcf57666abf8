# Student: the same network of base width 12, about ten times fewer operations and parameters.
_base_ = './_base_.py'
model = dict(
    backbone=dict(stem_channels=12, base_channels=12),
    decode_head=dict(in_channels=96, channels=32),
    auxiliary_head=dict(in_channels=48, channels=16),
)
