# The control: the same two networks on the same batches, nothing between them.
_base_ = '_base_/cifar10_small.py'
kd = dict(type='Cohort', peers=2, channels_last=True)
