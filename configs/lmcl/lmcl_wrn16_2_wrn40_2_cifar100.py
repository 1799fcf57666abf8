_base_ = 'lmcl_wrn16_2_cifar100.py'
kd = dict(peers=['kdmm::mcl/baseline_wrn40_2_cifar100.py'])
