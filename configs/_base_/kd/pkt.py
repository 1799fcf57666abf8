# PKT (arXiv 1803.10837). The weight is that of RepDistiller's benchmark, 30000 for the mean over
# pairs of 64 images: 30000 / 64 for the divergence of an image, at any batch size.
kd = dict(
    taps=dict(pooled='head.fc.in'),
    losses=dict(pkt=dict(type='PKTLoss', on='pooled', reduction='rows', weight=468.75)),
)
