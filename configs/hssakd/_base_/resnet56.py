# ResNet-56.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARResNet', depth=56, block='basic'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=64,
        init_cfg=None,  # torch's own
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
