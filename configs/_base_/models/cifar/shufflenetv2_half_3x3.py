# ShuffleNetV2 of half the width.
_base_ = 'shufflenetv2_3x3.py'
model = dict(backbone=dict(widen_factor=0.5))
