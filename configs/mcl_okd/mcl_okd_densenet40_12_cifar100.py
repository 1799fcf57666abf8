# The trunk is the first block and the transition behind it.
_base_ = ['_base_/mcl_okd_cifar100.py', '../_base_/models/cifar/densenet40_12.py']
kd = dict(trunk=['backbone.stem', 'backbone.stages.0', 'backbone.stages.1.0'])
