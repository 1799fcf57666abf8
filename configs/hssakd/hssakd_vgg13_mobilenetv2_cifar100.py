_base_ = 'baseline_mobilenetv2_cifar100.py'
kd = dict(
    type='HSSAKD',
    teacher=dict(
        config='kdmm::hssakd/baseline_vgg13_cifar100.py',
        checkpoint='work_dirs/teacher_vgg13_cifar100/epoch_100.pth',
    ),
)
