_base_ = ['baseline_resnet32_cifar100.py', '../_base_/kd/one.py']
