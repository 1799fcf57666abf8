_base_ = 'baseline_wrn16_2_cifar100.py'
kd = dict(
    type='HSSAKD',
    teacher=dict(
        config='kdmm::hssakd/baseline_wrn40_2_cifar100.py',
        checkpoint='work_dirs/teacher_wrn40_2_cifar100/epoch_100.pth',
    ),
)
