_base_ = ['dense_resnet50_imagenet.py', '_base_/srfp_imagenet.py']
