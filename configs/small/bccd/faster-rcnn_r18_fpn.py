# Faster R-CNN with an FPN of 64 channels; anchors half as large as stock, as the images are.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', './_base_.py']
model = dict(
    backbone=_base_.backbone,
    neck=_base_.neck,
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(max_per_img=200)),
)
