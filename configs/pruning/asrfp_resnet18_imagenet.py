_base_ = ['dense_resnet18_imagenet.py', '_base_/asrfp_imagenet.py']
