# RKD (arXiv 1904.05068) with the weights of RepDistiller's benchmark, features not normalised.
kd = dict(
    taps=dict(pooled='head.fc.in'),
    losses=dict(rkd=dict(type='RKDLoss', on='pooled', weight=dict(distance=25.0, angle=50.0))),
)
