_base_ = ['_base_/wrn28_4.py', '_base_/cifar100.py', '_base_/mcl_x4_logit.py']
