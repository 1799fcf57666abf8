_base_ = ['baseline_resnet34_imagenet.py', '../_base_/kd/mcl_bank_x4.py']
