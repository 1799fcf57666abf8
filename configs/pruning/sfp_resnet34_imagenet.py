_base_ = ['dense_resnet34_imagenet.py', '_base_/sfp_imagenet.py']
