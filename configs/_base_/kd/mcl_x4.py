# Four networks of one trunk: stem and first stage.
_base_ = 'mcl.py'
kd = dict(peers=4, trunk=['backbone.stem', 'backbone.stages.0'])
