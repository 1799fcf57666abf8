# A backbone for detectors; no result of it is published.
_base_ = ['baseline_resnet50_imagenet.py', '../_base_/kd/mcl_bank.py']
