# MCL-OKD (arXiv 2006.04093): four branches of one trunk contrast their views of an image, and the
# last one, which is kept, learns the mean of all logits, too. For CIFAR-100.
kd = dict(
    type='Cohort',
    peers=4,
    keep=3,
    trunk=['backbone.stem', 'backbone.stages.0'],
    taps=dict(embedding='head.fc.in', logits='head.fc.out'),
    losses=dict(
        contrast=dict(
            type='MCLOKDLoss',
            on='embedding',
            num_samples=50000,
            negatives=256,
            tau=0.1,
            replace=False,
            weight=0.025,
        ),
        ensemble=dict(type='EnsembleKDLoss', on='logits', temperature=3.0, learners='last'),
    ),
)
