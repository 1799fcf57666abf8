# 90 epochs, decays after 30 and 60; batch 256 in all.
_base_ = '../hssakd/_base_/resnet18_imagenet.py'
optim_wrapper = dict(optimizer=dict(nesterov=True))
param_scheduler = dict(milestones=[30, 60])
train_cfg = dict(max_epochs=90)
