# Four networks that share stem and first stage.
_base_ = 'cifar10_small_mcl.py'
kd = dict(peers=4, trunk=['backbone.stem', 'backbone.stages.0'])
