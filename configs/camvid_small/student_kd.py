# The student with logit distillation alone.
_base_ = './student.py'
kd = dict(
    teacher=dict(
        config='kdmm::camvid_small/teacher.py',
        checkpoint='work_dirs/camvid_small/teacher/iter_1200.pth',
    ),
    taps=dict(logits='decode_head.conv_seg.out', pixels='decode_head.conv_seg.in'),
    losses=dict(kd=dict(type='KDLoss', on='logits', tau=1.0, weight=1.0)),
)
