_base_ = ['_base_/resnet18_imagenet.py']
