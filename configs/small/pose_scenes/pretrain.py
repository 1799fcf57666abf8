# Jigsaw puzzles of generated persons: tools/generate_scenes.py data/pose_scenes --size 256 512
_base_ = '../pose/pretrain.py'
data_root = '{{$POSE_SCENES_ROOT:data/pose_scenes}}'
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_train.json',
        data_prefix=dict(img='img_dir/train/'),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_val.json',
        data_prefix=dict(img='img_dir/val/'),
    )
)
test_dataloader = val_dataloader
epochs = 30
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
