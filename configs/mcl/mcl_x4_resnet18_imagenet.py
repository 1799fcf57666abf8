_base_ = ['baseline_resnet18_imagenet.py', '../_base_/kd/mcl_bank_x4.py']
