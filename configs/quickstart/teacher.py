# Teacher: DeepLabV3, ResNet-18 of half width.
_base_ = './_base_.py'
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    decode_head=dict(in_channels=256, channels=64),
    auxiliary_head=dict(in_channels=128, channels=32),
)
