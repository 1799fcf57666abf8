_base_ = ['_base_/retinanet_r18_fpn_1x_voc0712.py', '_base_/random.py']
model = dict(backbone=_base_.from_scratch)
