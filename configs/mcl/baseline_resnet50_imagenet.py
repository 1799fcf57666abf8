_base_ = ['_base_/resnet50_imagenet.py']
