_base_ = ['dense_resnet34_imagenet.py', '_base_/asrfp_imagenet.py']
