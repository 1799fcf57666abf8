_base_ = '../small/cifar10/student.py'
_deprecation_ = dict(expected='configs/small/cifar10/student.py')
