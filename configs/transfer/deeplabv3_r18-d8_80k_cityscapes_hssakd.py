_base_ = [
    'mmseg::deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-512x1024.py',
    '_base_/pretrained.py',
]
model = dict(
    pretrained=None,
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/transfer/hssakd_r18.pth')),
)
