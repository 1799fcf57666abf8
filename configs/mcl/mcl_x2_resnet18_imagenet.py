_base_ = ['_base_/resnet18_imagenet.py', '_base_/mcl_bank.py']
