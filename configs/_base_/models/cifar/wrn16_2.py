# WRN-16-2.
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARWideResNet', depth=16, widen_factor=2),
    head=dict(
        in_channels=128,
        init_cfg=dict(  # torch's own weights, bias 0
            type='Kaiming',
            layer='Linear',
            a=5**0.5,
            mode='fan_in',
            nonlinearity='leaky_relu',
            distribution='uniform',
        ),
    ),
)
