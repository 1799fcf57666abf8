# ShuffleNetV2 with a 1x1 stem (MCL has 3x3).
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARShuffleNetV2', stem_kernel=1, widen_factor=1.0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=1024,
        init_cfg=None,  # torch's own
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
