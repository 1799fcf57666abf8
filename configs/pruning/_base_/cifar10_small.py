# 500 images a class and a network that fits them: ResNet-14, 40 epochs.
_base_ = '../../small/cifar10/_base_.py'
model = dict(backbone=dict(depth=14, shortcut='pad'), head=dict(in_channels=64))
param_scheduler = dict(milestones=[20, 30, 36])
train_cfg = dict(max_epochs=40, val_interval=40)
