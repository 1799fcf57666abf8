# The student of the Cityscapes configs, and its recipe: those of configs/cirkd.
_base_ = [
    '../_base_/models/deeplabv3_r18-d8.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/cirkd_40k.py',
    'mmseg::_base_/default_runtime.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(data_preprocessor=data_preprocessor)
