# MobileNetV2 of half the width whose stem halves the resolution (CRD).
_base_ = 'mobilenetv2_stride1.py'
model = dict(backbone=dict(stem_stride=2))
