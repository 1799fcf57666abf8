# FitNet (arXiv 1412.6550) beside logit KD: features after a 1x1 convolution. The value has the
# scale of the teacher's features: look at the share of the gradient.
_base_ = './kd.py'
kd = dict(
    taps=dict(pixels='decode_head.conv_seg.in'),
    losses=dict(
        fitnet=dict(
            type='FitNetLoss',
            on='pixels',
            connector=dict(type='Projection', bias=False),
            weight=10.0,
        )
    ),
)
