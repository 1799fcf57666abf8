_base_ = ['baseline_wrn40_2_cifar100.py', '../_base_/kd/mcl.py']
