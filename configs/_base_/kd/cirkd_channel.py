# CIRKD with the channel relations of its second version (technical report of 2025).
_base_ = './cirkd.py'
kd = dict(
    losses=dict(
        channel=dict(
            type='CIRKDChannelLoss',
            on='pixels',
            weight=dict(batch=1.0, mse=100.0, memory=0.1),
        )
    )
)
