# The same on random weights, which no run has trained: what the probe alone can do.
_base_ = 'cifar10_small_chrominance_probe.py'
model = dict(backbone=dict(init_cfg=None))
