_base_ = 'lmcl_wrn40_2_cifar100.py'
kd = dict(peers=['kdmm::mcl/baseline_wrn28_4_cifar100.py'])
