_base_ = ['../mcl/baseline_shufflenetv2_cifar100.py', '../_base_/kd/lmcl.py']
