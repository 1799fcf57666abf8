# CL-ILR (arXiv 1805.11761): four branches learn the mean of the others' logits, and the trunk gets
# the mean of their gradients.
kd = dict(
    type='Cohort',
    peers=4,
    trunk=['backbone.stem', 'backbone.stages.0', 'backbone.stages.1'],
    trunk_gradient='mean',
    taps=dict(logits='head.fc.out'),
    losses=dict(
        cl=dict(
            type='EnsembleKDLoss', on='logits', temperature=3.0, learners='all', target='others'
        )
    ),
)
