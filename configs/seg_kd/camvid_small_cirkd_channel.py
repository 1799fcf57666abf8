# Every term of CIRKD and the channel relations of its second version.
_base_ = ['../small/camvid/student.py', '../_base_/kd/cirkd_channel.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/camvid/teacher.py',
        checkpoint='work_dirs/camvid_small/teacher/iter_2400.pth',
        dtype='bfloat16',
    ),
    losses=dict(memory=dict(pixel_size=5000, region_size=1000)),
)
