# Student: the same network, about 7 times fewer operations and parameters.
_base_ = './_base_.py'
model = dict(
    backbone=dict(stem_channels=12, base_channels=12),
    decode_head=dict(in_channels=96, channels=24),
    auxiliary_head=dict(in_channels=48, channels=12),
)
