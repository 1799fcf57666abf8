# MobileNetV2 of half the width, at full resolution (CRD halves it in the stem).
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARMobileNetV2', stem_stride=1, widen_factor=0.5),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=1280,
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
