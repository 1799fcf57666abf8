# The supervised backbone: one network, on the batches that the cohort has.
_base_ = '_base_/cifar10_small_resnet18.py'
