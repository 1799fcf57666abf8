# FitNet (arXiv 1412.6550): features of the middle stage after a 1x1 convolution, BN and ReLU.
# Weight and form are those of RepDistiller's benchmark on CIFAR-100; without BN it diverges. The
# tap is that of MMPretrain's ResNets; kdmm's CIFAR networks have backbone.stages.1.out.
kd = dict(
    taps=dict(stage2='backbone.layer3.out'),
    losses=dict(
        fitnet=dict(
            type='FitNetLoss',
            on='stage2',
            connector=[dict(type='Pool'), dict(type='Projection', bias=False, norm=True)],
            weight=100.0,
        )
    ),
)
