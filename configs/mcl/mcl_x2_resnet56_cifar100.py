_base_ = ['baseline_resnet56_cifar100.py', '../_base_/kd/mcl.py']
