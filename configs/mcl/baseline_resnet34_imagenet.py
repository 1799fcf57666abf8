_base_ = 'baseline_resnet18_imagenet.py'
model = dict(backbone=dict(depth=34))
