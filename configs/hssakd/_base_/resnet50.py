# ResNet-50 of four stages.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=50, zero_init_residual=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=2048,
        init_cfg=None,  # torch's own
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
