_base_ = './_base_/simplebaseline_384x288.py'
model = dict(backbone=dict(depth=101))
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=256)
