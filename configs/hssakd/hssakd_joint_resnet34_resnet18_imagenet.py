# HSSAKD*: of the teacher that was trained together with its branches.
_base_ = 'hssakd_resnet34_resnet18_imagenet.py'
kd = dict(teacher=dict(checkpoint='work_dirs/teacher_joint_resnet34_imagenet/epoch_100.pth'))
