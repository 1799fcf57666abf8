_base_ = '../small/pose_scenes/pretrain.py'
_deprecation_ = dict(expected='configs/small/pose_scenes/pretrain.py')
