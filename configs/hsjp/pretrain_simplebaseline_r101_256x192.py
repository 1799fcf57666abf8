_base_ = './_base_/simplebaseline_256x192.py'
model = dict(backbone=dict(depth=101))
