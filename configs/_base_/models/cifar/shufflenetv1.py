# ShuffleNetV1, three groups.
_base_ = 'classifier.py'
model = dict(
    backbone=dict(type='kdmm.CIFARShuffleNetV1'),
    head=dict(in_channels=960, init_cfg=None),
)
