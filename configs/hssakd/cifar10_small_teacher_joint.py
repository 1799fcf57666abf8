# Teacher*: classifier and branches trained together.
_base_ = '../small/cifar10/teacher.py'
kd = dict(type='HSSAKDTeacher', joint=True, channels_last=True)
