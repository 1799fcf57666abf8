_base_ = ['dense_resnet18_imagenet.py', '_base_/sfp_imagenet.py']
