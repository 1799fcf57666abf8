_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', '_base_/random.py']
model = dict(backbone=_base_.from_scratch)
