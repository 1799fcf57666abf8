_base_ = [
    '../_base_/models/deeplabv3_r18-d8.py',
    '../_base_/datasets/coco_stuff164k.py',
    '../_base_/schedules/cirkd_80k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/kd/cirkd.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=171),
    auxiliary_head=dict(num_classes=171),
)
kd = dict(
    teacher=dict(
        config='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-80k_coco-stuff164k-512x512.py',
        checkpoint='zoo',
    ),
    losses=dict(memory=dict(queue_dtype='float16')),
)
