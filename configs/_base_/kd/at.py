# Attention transfer (arXiv 1612.03928) beside logit KD. The published weight, 10000 for the mean
# over 64 x 128 pixels, is 10000 / 8192 for the sum over an image's pixels, and that at any size.
_base_ = './kd.py'
kd = dict(
    taps=dict(pixels='decode_head.conv_seg.in'),
    losses=dict(at=dict(type='ATLoss', on='pixels', reduction='image', weight=1.22)),
)
