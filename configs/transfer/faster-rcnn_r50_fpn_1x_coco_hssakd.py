_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '_base_/pretrained.py']
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/transfer/hssakd_r50.pth'))
)
