_base_ = ['_base_/resnet34_imagenet_finetune.py', '_base_/sfp_imagenet.py']
