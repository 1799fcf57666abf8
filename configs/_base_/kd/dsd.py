# Double similarity distillation (arXiv 2107.08591), without logit KD as in its script. A weight of
# 1000 for the mean over 64 x 128 pixels is 0.122 for the sum over an image's, at any size. The maps
# are of one resolution, from early to late, and exist in both networks; the reference's first one,
# the auxiliary logits, does not: a teacher runs without its auxiliary head.
# CSDLoss's temperature, 4 by default, is left out: a config with its old name can still set it.
kd = dict(
    taps=dict(
        early='backbone.layer3.out',
        pixels='decode_head.conv_seg.in',
        logits='decode_head.conv_seg.out',
    ),
    losses=dict(
        psd=dict(type='PSDLoss', on=['early', 'pixels', 'logits'], reduction='image', weight=0.122),
        csd=dict(type='CSDLoss', on='logits', weight=10.0),
    ),
)
