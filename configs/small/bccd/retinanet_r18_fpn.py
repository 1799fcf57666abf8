# RetinaNet with an FPN of 64 channels; anchors half as large as stock, as the images are.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './_base_.py']
model = dict(
    backbone=_base_.backbone,
    neck=_base_.neck,
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(octave_base_scale=2),
    ),
)
