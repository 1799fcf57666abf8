_base_ = ['../mcl/baseline_resnet32_cifar100.py', '../_base_/kd/lmcl.py']
