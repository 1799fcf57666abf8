# Two teachers, ResNet-110 and ResNet-56. That each has half of the weight of a single one is ours.
_base_ = 'crd_kd_resnet110_resnet20_cifar100.py'
crd = dict(_base_.kd.losses.crd, weight=0.4)
logits = dict(_base_.kd.losses.kd, weight=0.5)
kd = dict(
    teacher=[
        _base_.kd.teacher,
        dict(
            config='kdmm::crd/baseline_resnet56_cifar100.py',
            checkpoint='work_dirs/baseline_resnet56_cifar100/epoch_240.pth',
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
