# DIST (arXiv 2205.10536) as its authors have it on ImageNet; on CIFAR-100 the temperature is 4.
kd = dict(
    taps=dict(logits='head.fc.out'),
    losses=dict(
        dist=dict(type='DISTLoss', on='logits', temperature=1.0, weight=dict(inter=2.0, intra=2.0))
    ),
)
