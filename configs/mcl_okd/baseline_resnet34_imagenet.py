# 100 epochs, cosine; batch 256 in all.
_base_ = '../hssakd/_base_/resnet34_imagenet.py'
optim_wrapper = dict(optimizer=dict(nesterov=True))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=True, T_max=100)
