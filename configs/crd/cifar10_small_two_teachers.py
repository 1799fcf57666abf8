# Two teachers of one architecture, the second of another seed (README.md).
_base_ = 'cifar10_small_crd_kd.py'
crd = dict(_base_.kd.losses.crd, weight=0.4)
logits = dict(_base_.kd.losses.kd, weight=0.5)
kd = dict(
    teacher=[
        _base_.kd.teacher,
        dict(
            config='kdmm::small/cifar10/teacher.py',
            checkpoint='work_dirs/cifar10_small/teacher_1/epoch_16.pth',
        ),
    ],
    losses=dict(
        _delete_=True,
        crd=crd,
        kd=logits,
        crd_1=dict(crd, teacher=1),
        kd_1=dict(logits, teacher=1),
    ),
)
