# ResNet-110 of bottlenecks (CRD's and HSSAKD's tables have basic blocks).
_base_ = 'resnet20.py'
model = dict(backbone=dict(depth=110, block='bottleneck'), head=dict(in_channels=256))
