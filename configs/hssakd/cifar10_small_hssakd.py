_base_ = '../cifar10_small/student.py'
kd = dict(
    type='HSSAKD',
    channels_last=True,
    teacher=dict(
        config='kdmm::cifar10_small/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher_branches/epoch_7.pth',
    ),
)
