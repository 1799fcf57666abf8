# The CamVid teacher, trained without distillation: no zoo has one. 8 images on 4 devices.
_base_ = [
    '../_base_/models/deeplabv3_r101-d8.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/cirkd_80k.py',
    'mmseg::_base_/default_runtime.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
optimizer = dict(lr=0.01)
optim_wrapper = dict(optimizer=optimizer)
auto_scale_lr = dict(base_batch_size=8)
