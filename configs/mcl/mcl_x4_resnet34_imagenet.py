_base_ = ['_base_/resnet34_imagenet.py', '_base_/mcl_bank_x4.py']
