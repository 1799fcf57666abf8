# HSSAKD*: of the teacher that was trained together with its branches.
_base_ = 'cifar10_small_hssakd.py'
kd = dict(teacher=dict(checkpoint='work_dirs/cifar10_small/teacher_joint/epoch_16.pth'))
