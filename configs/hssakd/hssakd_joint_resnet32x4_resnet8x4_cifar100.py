# HSSAKD*: of the teacher that was trained together with its branches.
_base_ = 'hssakd_resnet32x4_resnet8x4_cifar100.py'
kd = dict(teacher=dict(checkpoint='work_dirs/teacher_joint_resnet32x4_cifar100/epoch_240.pth'))
