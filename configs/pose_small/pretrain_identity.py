_base_ = '../small/pose/pretrain_identity.py'
_deprecation_ = dict(expected='configs/small/pose/pretrain_identity.py')
