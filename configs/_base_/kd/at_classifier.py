# Attention transfer (arXiv 1612.03928) at three stages. The weight is that of RepDistiller's
# benchmark on CIFAR-100: 1000 for the mean over the 32 x 32, 16 x 16 and 8 x 8 pixels of each. The
# mean falls as 1 / (h w): with reduction='image' it would be 0.98, 3.9 and 15.6 at any size. The
# taps are those of MMPretrain's ResNets; kdmm's CIFAR networks have backbone.stages.0.out and so
# on.
kd = dict(
    taps=dict(
        stage1='backbone.layer2.out', stage2='backbone.layer3.out', stage3='backbone.layer4.out'
    ),
    losses=dict(
        at1=dict(type='ATLoss', on='stage1', weight=1000.0),
        at2=dict(type='ATLoss', on='stage2', weight=1000.0),
        at3=dict(type='ATLoss', on='stage3', weight=1000.0),
    ),
)
