# 100 epochs, decays after 30, 60 and 90; batch 256 in all.
_base_ = '../hssakd/_base_/resnet50_imagenet.py'
optim_wrapper = dict(optimizer=dict(nesterov=True))
