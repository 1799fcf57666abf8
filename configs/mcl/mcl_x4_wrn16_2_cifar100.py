_base_ = ['baseline_wrn16_2_cifar100.py', '../_base_/kd/mcl_x4.py']
