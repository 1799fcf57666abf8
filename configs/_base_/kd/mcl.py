# MCL within the batch (arXiv 2104.12565): two networks, contrast of the features that classify.
kd = dict(
    type='Cohort',
    peers=2,
    taps=dict(embedding='head.fc.in'),
    losses=dict(
        mcl=dict(
            type='MCLLoss',
            on='embedding',
            tau=0.1,
            temperature=3.0,
            weight=dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0),
        )
    ),
)
