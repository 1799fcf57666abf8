# The pair-wise term of SKD and logit KD.
_base_ = ['../small/camvid/student.py', '../_base_/kd/skd.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/camvid/teacher.py',
        checkpoint='work_dirs/camvid_small/teacher/iter_2400.pth',
        dtype='bfloat16',
    )
)
