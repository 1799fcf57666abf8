# Template: a student of depth learns from a teacher of colours, without labels (arXiv 1910.10699
# has a transfer between them). To adapt: the data, and the mean and std of its depth.
#
# data/rgbd/pairs_train.json lists the pairs, as MMEngine's BaseDataset reads them:
#   {"metainfo": {"classes": []},
#    "data_list": [{"img_path": "0001.png", "img2_path": "0001.jpg"}, ...]}
# img_path lies below depth/ (one channel, 8 or 16 bits), img2_path below rgb/, of the same height
# and width. The run keeps the student: its depth is `img`, and a plain config of the base library
# tests and fine-tunes it. The teacher's image travels beside it.
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
data_preprocessor = dict(mean=[2700.0], std=[1000.0], to_rgb=False)  # millimetres
model = dict(backbone=dict(in_channels=1))
train_pipeline = [
    dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True),
    dict(
        type='KeyMapper',
        mapping=dict(img_path='img2_path'),
        remapping=dict(img='img2'),
        transforms=[dict(type='LoadImageFromFile')],
    ),
    dict(
        type='kdmm.BothImages',  # one crop and one flip for both
        key='img2',
        transforms=[
            dict(type='RandomResizedCrop', scale=224, interpolation='nearest'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        ],
    ),
    dict(type='PackInputs', meta_keys=('sample_idx', 'img_path', 'img_shape', 'img2')),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='BaseDataset',
        data_root='data/rgbd',
        ann_file='pairs_train.json',
        data_prefix=dict(img_path='depth', img2_path='rgb'),
        pipeline=train_pipeline,
    ),
)
val_cfg = None
test_cfg = None
kd = dict(
    teacher=dict(
        config='mmpretrain::resnet/resnet18_8xb32_in1k.py',
        checkpoint='zoo',
        inputs=dict(type='SecondImage', key='img2'),
    ),
    task=0,
    taps=dict(maps='backbone.layer4.out'),
    losses=dict(fitnet=dict(type='FitNetLoss', on='maps')),
)
