_base_ = '../small/cifar10/probe.py'
_deprecation_ = dict(expected='configs/small/cifar10/probe.py')
