# CC (arXiv 1904.01802) with the weight of RepDistiller's benchmark. For comparison: see CCLoss.
kd = dict(
    taps=dict(pooled='head.fc.in'),
    losses=dict(cc=dict(type='CCLoss', on='pooled', weight=0.02)),
)
