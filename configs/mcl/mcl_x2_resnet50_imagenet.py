# A backbone for detectors; no result of it is published.
_base_ = ['_base_/resnet50_imagenet.py', '_base_/mcl_bank.py']
