# The control: four branches with a common trunk, nothing between them.
_base_ = '_base_/cifar10_small.py'
kd = dict(
    type='Cohort',
    peers=4,
    keep=3,
    trunk=['backbone.stem', 'backbone.stages.0'],
    channels_last=True,
)
