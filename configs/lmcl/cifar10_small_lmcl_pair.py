_base_ = 'cifar10_small_lmcl.py'
kd = dict(peers=['kdmm::lmcl/cifar10_small_alone_resnet14.py'])
