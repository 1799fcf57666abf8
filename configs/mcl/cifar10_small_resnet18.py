# The supervised backbone, on the batches that the cohort has: ResNet-18 on CIFAR-10 enlarged to 64
# pixels, with the input statistics of detectors, so that configs/small/bccd can start from it.
_base_ = '_base_/cifar10_small.py'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
resize = dict(type='Resize', scale=64)
train_pipeline = [*_base_.train_pipeline[:-1], resize, _base_.train_pipeline[-1]]
test_pipeline = [_base_.test_pipeline[0], resize, _base_.test_pipeline[-1]]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18), head=dict(in_channels=512))
