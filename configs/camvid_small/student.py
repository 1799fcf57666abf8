_base_ = '../small/camvid/student.py'
_deprecation_ = dict(expected='configs/small/camvid/student.py')
