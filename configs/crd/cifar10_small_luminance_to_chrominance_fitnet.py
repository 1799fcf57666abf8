# FitNet (arXiv 1412.6550) in the place of CRD: maps behind a 1x1 convolution.
_base_ = '_base_/cifar10_small_luminance_to_chrominance.py'
kd = dict(
    losses=dict(
        fitnet=dict(type='FitNetLoss', on='maps', connector=dict(type='Projection', bias=False))
    )
)
