_base_ = 'crd_resnet50_vgg8_cifar100.py'
kd = dict(
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0, weight=1.0)),
)
