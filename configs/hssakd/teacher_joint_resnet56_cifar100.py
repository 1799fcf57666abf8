# Teacher*: network and branches trained together.
_base_ = 'baseline_resnet56_cifar100.py'
kd = dict(type='HSSAKDTeacher', joint=True)
