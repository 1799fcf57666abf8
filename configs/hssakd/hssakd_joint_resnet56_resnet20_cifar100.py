# HSSAKD*: of the teacher that was trained together with its branches.
_base_ = 'hssakd_resnet56_resnet20_cifar100.py'
kd = dict(teacher=dict(checkpoint='work_dirs/teacher_joint_resnet56_cifar100/epoch_240.pth'))
