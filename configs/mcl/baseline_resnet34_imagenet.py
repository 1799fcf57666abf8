_base_ = ['_base_/resnet34_imagenet.py']
