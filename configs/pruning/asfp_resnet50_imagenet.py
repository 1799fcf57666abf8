_base_ = ['dense_resnet50_imagenet.py', '_base_/asfp_imagenet.py']
