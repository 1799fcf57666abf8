# ShuffleNetV2 with a 1x1 stem (HSSAKD).
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARShuffleNetV2', stem_kernel=1, widen_factor=1.0),
    head=dict(in_channels=1024, init_cfg=None),
)
