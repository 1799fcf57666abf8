_base_ = 'cifar10_small_alone_on_train.py'
model = dict(backbone=dict(depth=14))
