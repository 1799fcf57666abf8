_base_ = 'baseline_resnet8x4_cifar100.py'
kd = dict(
    type='HSSAKD',
    teacher=dict(
        config='kdmm::hssakd/baseline_resnet32x4_cifar100.py',
        checkpoint='work_dirs/teacher_resnet32x4_cifar100/epoch_100.pth',
    ),
)
