_base_ = ['../mcl/baseline_wrn16_2_cifar100.py', '../_base_/kd/lmcl.py']
