# VID (arXiv 1904.05835) at three stages with the weight of RepDistiller's benchmark. The taps are
# those of MMPretrain's ResNets; kdmm's CIFAR networks have backbone.stages.0.out and so on.
kd = dict(
    taps=dict(
        stage1='backbone.layer2.out', stage2='backbone.layer3.out', stage3='backbone.layer4.out'
    ),
    losses=dict(
        vid=dict(
            type='VIDLoss',
            on=['stage1', 'stage2', 'stage3'],
            connector=dict(type='Pool'),
            weight=1.0,
        )
    ),
)
