_base_ = ['baseline_wrn28_4_cifar100.py', '../_base_/kd/mcl_x4_logit.py']
