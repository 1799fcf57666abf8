# Intra-class feature variation distillation (ECCV 2020) beside logit KD.
_base_ = './kd.py'
kd = dict(
    taps=dict(pixels='decode_head.conv_seg.in'),
    losses=dict(ifvd=dict(type='IFVDLoss', on='pixels', weight=20.0)),
)
