# DenseNet of depth 40 and growth 12, without bottlenecks and compression.
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARDenseNet', depth=40, growth=12, bottleneck=False),
    head=dict(
        in_channels=448,
        init_cfg=dict(
            type='Kaiming',
            layer='Linear',
            a=5**0.5,
            mode='fan_in',
            nonlinearity='leaky_relu',
            distribution='uniform',
        ),
    ),
)
