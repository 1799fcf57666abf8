_base_ = ['../_base_/models/cifar/mobilenetv2_stride2.py', '_base_/cifar100_light.py']
