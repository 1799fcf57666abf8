_base_ = './_base_/simplebaseline_384x288.py'
model = dict(backbone=dict(depth=152))
train_dataloader = dict(batch_size=32)
