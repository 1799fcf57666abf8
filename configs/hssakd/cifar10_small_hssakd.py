_base_ = '../small/cifar10/student.py'
kd = dict(
    type='HSSAKD',
    channels_last=True,
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher_branches/epoch_7.pth',
    ),
)
