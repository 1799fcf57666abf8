# The student with all terms of CIRKD, queues sorted by class.
_base_ = './student_kd.py'
kd = dict(
    losses=dict(
        p2p=dict(type='CIRKDMiniBatchLoss', on='pixels', tau=0.1, weight=1.0),
        memory=dict(
            type='CIRKDMemoryLoss',
            on='pixels',
            pixel_size=5000,
            region_size=1000,
            weight=dict(pixel=0.1, region=0.1),
        ),
    )
)
