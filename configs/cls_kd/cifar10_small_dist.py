# DIST with the temperature for small images.
_base_ = ['../small/cifar10/student.py', '../_base_/kd/dist.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
    losses=dict(dist=dict(temperature=4.0)),
)
