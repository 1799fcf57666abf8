_base_ = ['_base_/resnet34_imagenet_finetune.py', '_base_/asfp_imagenet.py']
