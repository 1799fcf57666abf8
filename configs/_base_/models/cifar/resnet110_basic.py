# ResNet-110 of basic blocks (CRD; MCL's is of bottlenecks).
_base_ = 'resnet20.py'
model = dict(backbone=dict(depth=110))
