# NST (arXiv 1707.01219) at three stages with the weight of RepDistiller's benchmark. The taps are
# those of MMPretrain's ResNets; kdmm's CIFAR networks have backbone.stages.0.out and so on.
kd = dict(
    taps=dict(
        stage1='backbone.layer2.out', stage2='backbone.layer3.out', stage3='backbone.layer4.out'
    ),
    losses=dict(
        nst=dict(
            type='NSTLoss',
            on=['stage1', 'stage2', 'stage3'],
            connector=dict(type='Pool'),
            weight=50.0,
        )
    ),
)
