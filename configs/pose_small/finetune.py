_base_ = '../small/pose/finetune.py'
_deprecation_ = dict(expected='configs/small/pose/finetune.py')
