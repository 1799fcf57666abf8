# The base library's config with patches in the place of joints. Our reconstruction of the papers:
# grid, label convention, sigma, augmentation and schedule are our choice.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
grid = (4, 3)
meta_keys = (
    'id', 'img_id', 'img_path', 'category_id', 'ori_shape', 'img_shape', 'input_size',
    'input_center', 'input_scale', 'flip', 'flip_direction', 'flip_indices', 'dataset_name',
    'jigsaw_perm', 'jigsaw_grid', 'jigsaw_mode',
)  # fmt: skip
# no RandomHalfBody: it reads joints
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
model = dict(
    backbone=dict(init_cfg=None),
    head=dict(out_channels=grid[0] * grid[1]),
    test_cfg=dict(flip_test=False, output_heatmaps=True),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline, bbox_file=None))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='kdmm.JigsawMetric')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='jigsaw/patch_acc'))
custom_hooks = [
    dict(type='SyncBuffersHook'),
    dict(type='kdmm.JigsawHook'),
    dict(type='kdmm.JigsawSheetHook', interval=2000),
]
# every epoch has puzzles of its own, and a resumed run goes on to the bit
reproducible = True
