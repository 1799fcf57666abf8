# The generated scenes of the quick start.
# Where the data lie: the variable KDMM_QUICKSTART, or data/quickstart.
_base_ = './seg_folders.py'
data_root = '{{$KDMM_QUICKSTART:data/quickstart}}'
metainfo = dict(
    classes=('sky', 'building', 'road', 'pavement', 'plants', 'pole', 'sign', 'car', 'person'),
    palette=[[120, 170, 215], [110, 85, 80], [90, 90, 95], [200, 150, 190], [85, 140, 60],
             [240, 230, 120], [250, 170, 30], [40, 70, 190], [220, 30, 70]])  # fmt: skip
crop_size = (128, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(256, 128),
        ratio_range=(1.0, 1.5),
        resize_type='Resize',
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo)
)
# no images are set aside for testing
test_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
    ),
)
