# L-MCL as published for ImageNet: contrast with memory banks, branches of one block a stage.
_base_ = './lmcl.py'
kd = dict(
    branches=dict(blocks=1),
    meta=dict(every=500),
    losses=dict(
        layers=dict(
            type='LMCLBankLoss',
            num_samples=1281167,
            negatives=8192,
            tau=0.07,
            weight=dict(vcl=0.01, soft_vcl=1.0, icl=0.01, soft_icl=1.0),
        )
    ),
)
