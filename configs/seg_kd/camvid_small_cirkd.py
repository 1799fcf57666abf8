# Every term of CIRKD, queues sorted by class and sized for the short run.
_base_ = ['../small/camvid/student.py', '../_base_/kd/cirkd.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/camvid/teacher.py',
        checkpoint='work_dirs/camvid_small/teacher/iter_2400.pth',
        dtype='bfloat16',
    ),
    losses=dict(memory=dict(pixel_size=5000, region_size=1000)),
)
