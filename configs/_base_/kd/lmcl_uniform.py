# L-MCL within the batch (arXiv 2207.11518), all pairs of layers alike: two networks with
# classifiers behind their stages, contrast between all stages, a mix of each network's stages.
kd = dict(
    type='Cohort',
    peers=2,
    branches=dict(stages='inner'),
    losses=dict(
        layers=dict(
            type='LMCLLoss',
            on='stages',
            matching='uniform',
            tau=0.1,
            temperature=3.0,
            weight=dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0),
        ),
        ensemble=dict(
            type='StageEnsembleLoss',
            on=['stages', 'stage_logits'],
            temperature=3.0,
            weight=dict(ce=1.0, kd=1.0),
        ),
    ),
)
