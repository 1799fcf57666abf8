# ResNet-14: the teacher's classifier, trained as usual.
_base_ = '_base_.py'
model = dict(backbone=dict(depth=14), head=dict(in_channels=64))
