_base_ = 'lmcl_shufflenetv2_cifar100.py'
kd = dict(peers=['kdmm::mcl/baseline_resnet110_cifar100.py'])
