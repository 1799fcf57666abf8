# CIRKD (arXiv 2204.06986): logit KD, mini-batch pixel-to-pixel, memory pixel-to-pixel and -region.
# The weights are the reference's. A config that inherits this names `kd.teacher` itself.
# KDLoss's temperature, 1 by default, is left out: a config with its old name can still set it.
kd = dict(
    taps=dict(logits='decode_head.conv_seg.out', pixels='decode_head.conv_seg.in'),
    losses=dict(
        kd=dict(type='KDLoss', on='logits', weight=1.0),
        p2p=dict(type='CIRKDMiniBatchLoss', on='pixels', tau=0.1, weight=1.0),
        memory=dict(
            type='CIRKDMemoryLoss', on='pixels', tau=0.1, weight=dict(pixel=0.1, region=0.1)
        ),
    ),
)
