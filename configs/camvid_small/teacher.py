_base_ = '../small/camvid/teacher.py'
_deprecation_ = dict(expected='configs/small/camvid/teacher.py')
