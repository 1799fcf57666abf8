_base_ = ['_base_/retinanet_r18_fpn_1x_voc0712.py', '_base_/pretrained.py']
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/transfer/mcl_r18.pth'))
)
