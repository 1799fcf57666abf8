# What the authors' code calls DenseNet-40-12.
_base_ = 'mcl_okd_densenet40_12_cifar100.py'
model = dict(backbone=dict(bottleneck=True), head=dict(in_channels=132))
