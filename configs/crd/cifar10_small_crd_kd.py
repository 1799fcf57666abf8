_base_ = 'cifar10_small_crd.py'
kd = dict(
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0, weight=1.0)),
)
