# Teacher*: network and branches trained together.
_base_ = 'baseline_wrn40_2_cifar100.py'
kd = dict(type='HSSAKDTeacher', joint=True)
