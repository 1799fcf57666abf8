# Teacher: DeepLabV3, ResNet-18 of base width 32, stride 8; trained for longer, in larger batches.
_base_ = './_base_.py'
iterations = 2400
train_dataloader = dict(batch_size=8)
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    decode_head=dict(in_channels=256, channels=96),
    auxiliary_head=dict(in_channels=128, channels=64),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=iterations, by_epoch=False),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations)
default_hooks = dict(checkpoint=dict(interval=600))
