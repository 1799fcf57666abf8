# Every term of CIRKD, each weighted so that its gradient is a share of the task's.
_base_ = './camvid_small_cirkd.py'
kd = dict(
    losses=dict(
        kd=dict(weight='auto:0.5'),
        p2p=dict(weight='auto:0.2'),
        memory=dict(weight=dict(pixel='auto:0.05', region='auto:0.05')),
    )
)
