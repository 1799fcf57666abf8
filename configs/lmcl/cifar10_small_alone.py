# One network, on the same batches.
_base_ = '_base_/cifar10_small.py'
