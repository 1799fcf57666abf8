_base_ = ['dense_resnet50_imagenet.py', '_base_/sfp_imagenet.py']
