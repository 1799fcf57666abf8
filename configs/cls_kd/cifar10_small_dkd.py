# DKD. The weights grow over the same share of the epochs as on CIFAR-100, 20 of 240.
_base_ = ['../small/cifar10/student.py', '../_base_/kd/dkd.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
    losses=dict(
        dkd=dict(weight=dict(target=dict(end=16 * 20 / 240), others=dict(end=16 * 20 / 240)))
    ),
)
