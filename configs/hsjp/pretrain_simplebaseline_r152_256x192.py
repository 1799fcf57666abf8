_base_ = './_base_/simplebaseline_256x192.py'
model = dict(backbone=dict(depth=152))
train_dataloader = dict(batch_size=32)
