# ShuffleNetV2 with a 3x3 stem (HSSAKD has 1x1).
_base_ = '../../hssakd/_base_/shufflenetv2.py'
model = dict(backbone=dict(stem_kernel=3))
