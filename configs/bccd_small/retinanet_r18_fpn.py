_base_ = '../small/bccd/retinanet_r18_fpn.py'
_deprecation_ = dict(expected='configs/small/bccd/retinanet_r18_fpn.py')
