# The trunk is the blocks of 64, 128 and 256 channels.
_base_ = ['_base_/mcl_okd_cifar100.py', '../_base_/models/cifar/vgg16.py']
kd = dict(
    trunk=['backbone.stem', 'backbone.stages.0', 'backbone.stages.1', 'backbone.stages.2'],
    losses=dict(contrast=dict(negatives=16384)),
)
