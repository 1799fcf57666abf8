# Four independent networks.
_base_ = ['_base_/cifar10_small.py', '../_base_/kd/dml.py']
kd = dict(peers=4, losses=dict(dml=dict(temperature=2.0)), channels_last=True)
