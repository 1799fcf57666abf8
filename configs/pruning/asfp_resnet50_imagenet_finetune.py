_base_ = ['_base_/resnet50_imagenet_finetune.py', '_base_/asfp_imagenet.py']
