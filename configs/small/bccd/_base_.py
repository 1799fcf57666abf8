# What the runs on BCCD at 320x240 share, sized for a CPU core. All stages are trained and BatchNorm
# estimates its statistics, whatever the backbone starts from, so that arms differ in nothing else.
_base_ = ['mmdet::_base_/default_runtime.py', '../../_base_/datasets/bccd.py']
scale = (320, 240)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=scale)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=scale)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **loader, batch_size=4, drop_last=True, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(**loader, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(**loader, dataset=dict(pipeline=test_pipeline))
backbone = dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None)
neck = dict(in_channels=[64, 128, 256, 512], out_channels=64)
iters = 300
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=iters, begin=0, end=iters, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
# all arms see the same images in the same order, and a resumed run goes on to the bit
reproducible = True
# load_from names a complete checkpoint of this network
strict_load = True
