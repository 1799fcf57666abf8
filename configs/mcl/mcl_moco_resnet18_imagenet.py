# Pretraining without labels on ImageNet: 8 GPUs with 32 images, 200 epochs. The encoder is
# ResNet-18 whose own layer projects (no MLP), and the views are MoCo-v1's.
_base_ = [
    'mmpretrain::mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py',
    '../_base_/kd/mcl_moco.py',
]
view_pipeline = [
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), backend='pillow'),
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),  # B, G, R
    ),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    # the same as in the base, from where MMEngine would hand on a key that it does not take
    collate_fn=dict(_delete_=True, type='default_collate'),
    dataset=dict(pipeline=train_pipeline),
)
model = dict(
    backbone=dict(depth=18),
    neck=dict(
        _delete_=True,
        type='LinearNeck',
        in_channels=512,
        out_channels=128,
        gap_dim=2,
        norm_cfg=None,
        init_cfg=None,  # torch's own
    ),
    head=dict(temperature=0.07),
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[120, 160], gamma=0.1)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
