# Teacher*: network and branches trained together.
_base_ = 'baseline_resnet50_cifar100.py'
kd = dict(type='HSSAKDTeacher', joint=True)
