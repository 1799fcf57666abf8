_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '_base_/random.py']
model = dict(backbone=_base_.from_scratch)
