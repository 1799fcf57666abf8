# WRN-16-2.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARWideResNet', depth=16, widen_factor=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=128,
        init_cfg=dict(  # torch's own weights, bias 0
            type='Kaiming',
            layer='Linear',
            a=5**0.5,
            mode='fan_in',
            nonlinearity='leaky_relu',
            distribution='uniform',
        ),
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
