# MCL with memory banks: two networks, contrast with the past embeddings of all images.
kd = dict(
    type='Cohort',
    peers=2,
    taps=dict(embedding='head.fc.in'),
    losses=dict(
        mcl=dict(
            type='MCLBankLoss',
            on='embedding',
            num_samples=1281167,
            negatives=8192,
            tau=0.07,
            temperature=3.0,
            weight=dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0),
        )
    ),
)
