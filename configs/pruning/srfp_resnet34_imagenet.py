_base_ = ['dense_resnet34_imagenet.py', '_base_/srfp_imagenet.py']
