# What all arms share: 100 images a class, seen often by a network that can learn them by heart.
_base_ = '../../small/cifar10/_base_.py'
train_dataloader = dict(dataset=dict(per_class=100))
model = dict(
    backbone=dict(depth=8, widths=(16, 16, 32, 64)),
    head=dict(in_channels=64),
)
param_scheduler = dict(milestones=[50, 60, 70])
train_cfg = dict(max_epochs=80, val_interval=80)
default_hooks = dict(checkpoint=dict(interval=20))
