_base_ = 'resnet18_imagenet.py'
model = dict(backbone=dict(depth=34))
