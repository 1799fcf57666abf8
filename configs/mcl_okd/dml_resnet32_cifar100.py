# Four independent networks.
_base_ = ['baseline_resnet32_cifar100.py', '../_base_/kd/dml.py']
kd = dict(peers=4, losses=dict(dml=dict(temperature=2.0)))
