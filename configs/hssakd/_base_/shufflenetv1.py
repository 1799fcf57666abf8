# ShuffleNetV1, three groups.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARShuffleNetV1'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=960,
        init_cfg=None,  # torch's own
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
