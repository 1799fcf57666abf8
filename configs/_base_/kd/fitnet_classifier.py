# FitNet (arXiv 1412.6550): features of the middle stage after a 1x1 convolution. The weight is that
# of RepDistiller's benchmark on CIFAR-100, whose hint has BN and ReLU behind the convolution. The
# tap is that of MMPretrain's ResNets; kdmm's CIFAR networks have backbone.stages.1.out.
kd = dict(
    taps=dict(stage2='backbone.layer3.out'),
    losses=dict(
        fitnet=dict(
            type='FitNetLoss',
            on='stage2',
            connector=[dict(type='Pool'), dict(type='Projection', bias=False)],
            weight=100.0,
        )
    ),
)
