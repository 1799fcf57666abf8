# Teacher*: network and branches trained together.
_base_ = 'baseline_vgg13_cifar100.py'
kd = dict(type='HSSAKDTeacher', joint=True)
