# Logit distillation: the control.
_base_ = '../cifar10_small/student.py'
kd = dict(
    teacher=dict(
        config='kdmm::cifar10_small/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0)),
)
