_base_ = ['../mcl/baseline_resnet110_cifar100.py', '../_base_/kd/lmcl.py']
