# OKDDip (arXiv 1912.00350): three peers, each with a target of its own, and a leader, which is
# kept.
ramp = dict(type='RampUp', start=0.0, stop=1.0, end=80, unit='epoch')
kd = dict(
    type='Cohort',
    peers=4,
    keep=3,
    trunk=['backbone.stem', 'backbone.stages.0', 'backbone.stages.1'],
    taps=dict(logits='head.fc.out', embedding='head.fc.in'),
    losses=dict(
        okddip=dict(
            type='OKDDipLoss',
            on=['logits', 'embedding'],
            temperature=3.0,
            weight=dict(peers=ramp, leader=ramp),
        )
    ),
)
