_base_ = ['dense_resnet32_cifar10.py', '_base_/asrfp.py']
