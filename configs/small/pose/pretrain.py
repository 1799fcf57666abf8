# Jigsaw puzzles of 4x3 patches of 32 pixels on the same persons; no joint is read.
_base_ = './_base_.py'
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
grid = (4, 3)
meta_keys = (
    'id', 'img_id', 'img_path', 'category_id', 'ori_shape', 'img_shape', 'input_size',
    'input_center', 'input_scale', 'flip', 'flip_direction', 'flip_indices', 'dataset_name',
    'jigsaw_perm', 'jigsaw_grid', 'jigsaw_mode',
)  # fmt: skip
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='RandomBBoxTransform', scale_factor=(0.75, 1.25), rotate_factor=30),
    dict(type='TopdownAffine', input_size=_base_.codec.input_size),
    dict(type='kdmm.ShufflePatches', input_size=_base_.codec.input_size, grid=grid),
    dict(type='GenerateTarget', encoder=_base_.codec),
    dict(type='PackPoseInputs', meta_keys=meta_keys),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='TopdownAffine', input_size=_base_.codec.input_size),
    dict(type='kdmm.ShufflePatches', input_size=_base_.codec.input_size, grid=grid, seed=0),
    dict(type='PackPoseInputs', meta_keys=meta_keys),
]
model = dict(head=dict(out_channels=grid[0] * grid[1]), test_cfg=dict(output_heatmaps=True))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='kdmm.JigsawMetric', hungarian=True)
test_evaluator = val_evaluator
custom_hooks = [
    dict(type='SyncBuffersHook'),
    dict(type='kdmm.JigsawHook'),
    dict(type='kdmm.JigsawSheetHook', interval=1300),
]
epochs = 200
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=20)
default_hooks = dict(checkpoint=dict(interval=20))
