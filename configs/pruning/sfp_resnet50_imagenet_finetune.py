_base_ = ['_base_/resnet50_imagenet_finetune.py', '_base_/sfp_imagenet.py']
