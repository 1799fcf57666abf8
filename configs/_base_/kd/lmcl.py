# L-MCL as published for CIFAR-100: which layers match is learnt, every 50 iterations of an epoch.
_base_ = './lmcl_uniform.py'
kd = dict(
    type='LMCL',
    meta=dict(every=50, steps=2, form='adjoint'),
    losses=dict(layers=dict(matching='learned')),
)
