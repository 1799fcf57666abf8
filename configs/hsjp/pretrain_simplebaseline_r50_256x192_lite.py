# 60 epochs in place of 210, for development.
_base_ = './pretrain_simplebaseline_r50_256x192.py'
train_cfg = dict(max_epochs=60)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=500, start_factor=0.001, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=60, milestones=[45, 55], gamma=0.1, by_epoch=True),
]
