# MCL on MoCo without labels, sized for CPU cores: 5,000 images of 32 pixels, of which the queue
# holds a fifth. The backbone is that of ../small/cifar10/probe.py.
_base_ = ['../small/cifar10/_base_.py', '../_base_/kd/mcl_moco.py']
kd = dict(channels_last=True)
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=_base_.data_preprocessor.mean,
    std=_base_.data_preprocessor.std,
    to_rgb=True,
)
view_pipeline = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0)),
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),  # B, G, R
    ),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, backend='cv2'),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(dataset=dict(pipeline=train_pipeline)),
)
# nothing is validated: features are judged by a classifier on them
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
model = dict(
    _delete_=True,
    type='MoCo',
    queue_len=1024,
    feat_dim=128,
    momentum=0.01,
    backbone=dict(type='kdmm.CIFARResNet', depth=8, block='basic', widths=(8, 8, 16, 32)),
    neck=dict(type='LinearNeck', in_channels=32, out_channels=128, gap_dim=2, norm_cfg=None),
    head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.07),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(milestones=[24, 32])
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=40)
