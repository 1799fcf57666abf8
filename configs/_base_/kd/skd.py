# Structured distillation (arXiv 1903.04197), its pair-wise term, beside logit KD.
_base_ = './kd.py'
kd = dict(
    taps=dict(pixels='decode_head.conv_seg.in'),
    losses=dict(skd=dict(type='SKDLoss', on='pixels', patch=2, weight=10.0)),
)
