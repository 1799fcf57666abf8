_base_ = '../small/pose_scenes/finetune.py'
_deprecation_ = dict(expected='configs/small/pose_scenes/finetune.py')
