# Joints of generated persons, from whatever weights load_from names.
_base_ = '../pose/finetune.py'
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
val_evaluator = [
    dict(
        type='CocoMetric',
        ann_file=data_root + '/annotations/person_keypoints_val.json',
        nms_mode='none',
    ),
    dict(type='PCKAccuracy', thr=0.1, norm_item='bbox', prefix='pck'),
]
test_evaluator = val_evaluator
epochs = 8
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=4))
