# CRD. Without labels negatives are drawn from all images.
_base_ = '_base_/cifar10_small_luminance_to_chrominance.py'
kd = dict(losses=dict(crd=dict(type='CRDLoss', on='features', mode='unlabelled', weight=0.8)))
