_base_ = ['../mcl/baseline_resnet56_cifar100.py', '../_base_/kd/lmcl.py']
