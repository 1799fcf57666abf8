# ResNet-32x4.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARResNet', depth=32, block='basic', widths=(32, 64, 128, 256)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=256,
        init_cfg=None,  # torch's own
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
