_base_ = [
    '../_base_/models/deeplabv3_r18-d8.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/cirkd_40k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/kd/cirkd.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
kd = dict(
    teacher=dict(
        config='kdmm::cirkd/deeplab_r101_camvid.py',
        checkpoint='work_dirs/deeplab_r101_camvid/iter_80000.pth',
    )
)
