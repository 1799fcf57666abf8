_base_ = ['../_base_/models/cifar/resnet56.py', '_base_/cifar100.py']
model = dict(backbone=dict(shortcut='pad'), head=dict(num_classes=100))
