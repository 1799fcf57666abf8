_base_ = ['dense_resnet18_imagenet.py', '_base_/srfp_imagenet.py']
