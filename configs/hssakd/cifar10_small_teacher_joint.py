# Teacher*: classifier and branches trained together.
_base_ = '../cifar10_small/teacher.py'
kd = dict(type='HSSAKDTeacher', joint=True, channels_last=True)
