# ResNet-56.
_base_ = 'resnet20.py'
model = dict(backbone=dict(depth=56))
