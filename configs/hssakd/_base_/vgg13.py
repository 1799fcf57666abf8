# VGG-13 with BN.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARVGG', depth=13),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=512,
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
