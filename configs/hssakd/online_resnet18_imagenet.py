_base_ = '_base_/resnet18_imagenet.py'
kd = dict(type='HSSAKDOnline', peers=2)
