# VID.
_base_ = ['../small/cifar10/student.py', '../_base_/kd/vid.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
    taps=dict(
        stage1='backbone.stages.0.out',
        stage2='backbone.stages.1.out',
        stage3='backbone.stages.2.out',
    ),
)
