_base_ = ['_base_/resnet18_imagenet_finetune.py', '_base_/asfp_imagenet.py']
