_base_ = 'lmcl_resnet110_cifar100.py'
kd = dict(peers=['kdmm::mcl/baseline_wrn28_4_cifar100.py'])
