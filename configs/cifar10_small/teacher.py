_base_ = '../small/cifar10/teacher.py'
_deprecation_ = dict(expected='configs/small/cifar10/teacher.py')
