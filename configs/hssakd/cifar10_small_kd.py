# Logit distillation: the control.
_base_ = '../small/cifar10/student.py'
kd = dict(
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0)),
)
