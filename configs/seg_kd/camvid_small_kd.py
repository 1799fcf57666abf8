# Logit distillation alone: the control.
_base_ = ['../small/camvid/student.py', '../_base_/kd/kd.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/camvid/teacher.py',
        checkpoint='work_dirs/camvid_small/teacher/iter_2400.pth',
        dtype='bfloat16',
    )
)
