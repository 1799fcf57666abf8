_base_ = ['dense_resnet34_imagenet.py', '_base_/asfp_imagenet.py']
