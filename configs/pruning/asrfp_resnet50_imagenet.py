_base_ = ['dense_resnet50_imagenet.py', '_base_/asrfp_imagenet.py']
