# Four networks of one trunk: stem and the first two stages.
_base_ = 'mcl_bank.py'
kd = dict(
    peers=4,
    trunk=[
        'backbone.conv1',
        'backbone.bn1',
        'backbone.relu',
        'backbone.maxpool',
        'backbone.layer1',
        'backbone.layer2',
    ],
)
