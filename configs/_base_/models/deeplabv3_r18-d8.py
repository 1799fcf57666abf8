# mmseg's DeepLabV3-R18 with the reference's align_corners and mean over non-ignored pixels.
_base_ = 'mmseg::_base_/models/deeplabv3_r50-d8.py'
model = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(
        in_channels=512,
        channels=128,
        align_corners=True,
        loss_decode=dict(avg_non_ignore=True),
    ),
    auxiliary_head=dict(
        in_channels=256,
        channels=64,
        align_corners=True,
        loss_decode=dict(avg_non_ignore=True),
    ),
)
