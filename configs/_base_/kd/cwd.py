# Channel-wise distillation (arXiv 2011.13256) of features and logits beside logit KD, as in CIRKD's
# comparison. It divides by the student's 128 channels where the teacher's 256 are compared, with
# weight 50: a weight of 100 for each compared channel. The temperature is CWDLoss's default, 4.
_base_ = './cwd_logits.py'
kd = dict(
    taps=dict(pixels='decode_head.conv_seg.in'),
    losses=dict(
        cwd=dict(
            type='CWDLoss',
            on='pixels',
            connector=dict(type='Projection', bias=False),
            weight=100.0,
        )
    ),
)
