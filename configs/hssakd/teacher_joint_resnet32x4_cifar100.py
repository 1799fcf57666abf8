# Teacher*: network and branches trained together.
_base_ = 'baseline_resnet32x4_cifar100.py'
kd = dict(type='HSSAKDTeacher', joint=True)
