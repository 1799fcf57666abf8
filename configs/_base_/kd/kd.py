# Logit distillation (arXiv 1503.02531): KL per pixel, mean over pixels: every method's control.
# A config that inherits this, or any file of this folder, names `kd.teacher` itself.
# Temperature 1, the default, is left out: a config with its old name `tau` can still set it.
kd = dict(
    taps=dict(logits='decode_head.conv_seg.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', weight=1.0)),
)
