# ShuffleNetV2 with a 3x3 stem (MCL).
_base_ = 'shufflenetv2_1x1.py'
model = dict(backbone=dict(stem_kernel=3))
