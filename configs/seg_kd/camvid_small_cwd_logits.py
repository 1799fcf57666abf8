# CWD of logits, logit KD.
_base_ = ['../small/camvid/student.py', '../_base_/kd/cwd_logits.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/camvid/teacher.py',
        checkpoint='work_dirs/camvid_small/teacher/iter_2400.pth',
        dtype='bfloat16',
    )
)
