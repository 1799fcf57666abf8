_base_ = 'baseline_resnet20_cifar100.py'
kd = dict(
    type='HSSAKD',
    teacher=dict(
        config='kdmm::hssakd/baseline_resnet56_cifar100.py',
        checkpoint='work_dirs/teacher_resnet56_cifar100/epoch_100.pth',
    ),
)
