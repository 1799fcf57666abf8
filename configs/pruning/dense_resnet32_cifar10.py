_base_ = ['../_base_/models/cifar/resnet32.py', '_base_/cifar10.py']
model = dict(backbone=dict(shortcut='pad'), head=dict(num_classes=10))
