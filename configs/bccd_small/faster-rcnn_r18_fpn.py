_base_ = '../small/bccd/faster-rcnn_r18_fpn.py'
_deprecation_ = dict(expected='configs/small/bccd/faster-rcnn_r18_fpn.py')
