_base_ = '../small/pose/pretrain.py'
_deprecation_ = dict(expected='configs/small/pose/pretrain.py')
