_base_ = 'baseline_resnet18_imagenet.py'
model = dict(
    backbone=dict(_delete_=True, type='ShuffleNetV2', widen_factor=1.0),
    head=dict(in_channels=1024),
)
