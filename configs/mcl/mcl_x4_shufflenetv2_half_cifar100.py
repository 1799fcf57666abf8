_base_ = ['baseline_shufflenetv2_half_cifar100.py', '../_base_/kd/mcl_x4.py']
