# Stages at the same place alone.
_base_ = 'cifar10_small_lmcl_uniform.py'
kd = dict(losses=dict(layers=dict(matching='one_to_one')))
