# The student with CIRKD: same model, data and budget; queues and keys sized for a short run.
_base_ = './student.py'
kd = dict(
    teacher=dict(
        config='kdmm::quickstart/teacher.py',
        checkpoint='{{$KDMM_QUICKSTART_WORK:work_dirs/quickstart}}/teacher/'
        'iter_{{$KDMM_QUICKSTART_ITERATIONS:400}}.pth',
    ),
    taps=dict(logits='decode_head.conv_seg.out', pixels='decode_head.conv_seg.in'),
    losses=dict(
        kd=dict(type='KDLoss', on='logits', temperature=1.0, weight=1.0),
        p2p=dict(type='CIRKDMiniBatchLoss', on='pixels', tau=0.1, weight=1.0),
        memory=dict(
            type='CIRKDMemoryLoss',
            on='pixels',
            pixel_size=2000,
            region_size=500,
            pixel_keys=1024,
            region_keys=512,
            weight=dict(pixel=0.1, region=0.1),
        ),
    ),
)
