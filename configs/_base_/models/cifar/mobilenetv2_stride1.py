# MobileNetV2 of half the width, at full resolution (CRD halves it in the stem).
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARMobileNetV2', stem_stride=1, widen_factor=0.5),
    head=dict(in_channels=1280, init_cfg=dict(type='Normal', layer='Linear', std=0.01)),
)
