# SRFP while a network of twice the depth teaches.
_base_ = 'cifar10_small_srfp.py'
kd = dict(
    teacher=dict(
        config='kdmm::pruning/cifar10_small_teacher.py',
        checkpoint='work_dirs/pruning_small/teacher/epoch_40.pth',
    ),
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0)),
)
