_base_ = [
    '../_base_/models/deeplabv3_mobilenetv2-d8.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/cirkd_40k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/kd/cirkd.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(data_preprocessor=data_preprocessor)
kd = dict(
    teacher=dict(
        config='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='zoo',
    )
)
