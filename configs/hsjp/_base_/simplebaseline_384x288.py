# Larger images and heatmaps, as MMPose's config of this size has them.
_base_ = './simplebaseline_256x192.py'
size = dict(input_size=(288, 384))
codec = dict(size, heatmap_size=(72, 96), sigma=3)
train_pipeline = _base_.train_pipeline
train_pipeline[4].update(size)  # TopdownAffine
train_pipeline[5].update(size)  # ShufflePatches
train_pipeline[6].encoder.update(codec)
val_pipeline = _base_.val_pipeline
val_pipeline[2].update(size)
val_pipeline[3].update(size)
del size
model = dict(head=dict(decoder=codec))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
