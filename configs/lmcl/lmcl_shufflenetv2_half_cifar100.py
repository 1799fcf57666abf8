_base_ = ['../mcl/baseline_shufflenetv2_half_cifar100.py', '../_base_/kd/lmcl.py']
