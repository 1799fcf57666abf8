# CRD. Without labels negatives are drawn from all images.
_base_ = '_base_/cifar10_small_luminance_to_chrominance.py'
kd = dict(
    losses=dict(
        crd=dict(
            type='CRDLoss',
            on='features',
            mode='unlabelled',
            num_samples=5000,
            negatives=1638,
            weight=0.8,
        )
    )
)
