# What the networks for CIFAR-100 share. A config that inherits this names `model.backbone`,
# `model.head.in_channels` and `model.head.init_cfg`, where None is torch's own.
model = dict(
    type='ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
