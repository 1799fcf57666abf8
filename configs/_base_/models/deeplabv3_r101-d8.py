# mmseg's DeepLabV3-R101 with the reference's align_corners and mean over non-ignored pixels.
_base_ = 'mmseg::_base_/models/deeplabv3_r50-d8.py'
model = dict(
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(align_corners=True, loss_decode=dict(avg_non_ignore=True)),
    auxiliary_head=dict(align_corners=True, loss_decode=dict(avg_non_ignore=True)),
)
