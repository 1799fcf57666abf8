# Deep mutual learning (arXiv 1706.00384): two networks, KL divergence of logits both ways.
# Temperature 1, the default, is left out: a config with its old name `tau` can still set it.
kd = dict(
    type='Cohort',
    peers=2,
    taps=dict(logits='head.fc.out'),
    losses=dict(dml=dict(type='KDLoss', on='logits')),
)
