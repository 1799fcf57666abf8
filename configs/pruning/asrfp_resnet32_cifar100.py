_base_ = ['dense_resnet32_cifar100.py', '_base_/asrfp.py']
