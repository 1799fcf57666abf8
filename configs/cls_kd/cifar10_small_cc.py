# CC.
_base_ = ['../small/cifar10/student.py', '../_base_/kd/cc.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
)
