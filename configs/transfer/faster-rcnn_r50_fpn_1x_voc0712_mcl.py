_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', '_base_/pretrained.py']
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/transfer/mcl_r50.pth'))
)
