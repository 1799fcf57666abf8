# Deep mutual learning (arXiv 1706.00384): two networks, KL divergence of logits both ways.
kd = dict(
    type='Cohort',
    peers=2,
    taps=dict(logits='head.fc.out'),
    losses=dict(dml=dict(type='KDLoss', on='logits', tau=1.0)),
)
