# ONE (arXiv 1806.04606): four branches, whose last stages are their own, and a gate on the trunk
# that mixes their logits into the one teacher of all.
kd = dict(
    type='Cohort',
    peers=4,
    trunk=['backbone.stem', 'backbone.stages.0', 'backbone.stages.1'],
    taps=dict(logits='head.fc.out', trunk='backbone.stages.2.in'),
    losses=dict(
        one=dict(
            type='ONELoss', on=['logits', 'trunk'], temperature=3.0, weight=dict(ce=1.0, kd=1.0)
        )
    ),
)
