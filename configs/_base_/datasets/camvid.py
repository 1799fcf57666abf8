# CamVid, 480x360, 11 classes, SegNet's split. The class names and the palette are those of
# kdmm.CamVidDataset, which a test holds equal. Where the data lie: the variable CAMVID_ROOT, or
# data/camvid.
_base_ = './seg_folders.py'
data_root = '{{$CAMVID_ROOT:data/camvid}}'
metainfo = dict(
    classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'signsymbol', 'fence', 'car',
             'pedestrian', 'bicyclist'),
    palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
             [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
             [0, 128, 192]])  # fmt: skip
# models inherit data_preprocessor=dict(size=crop_size): a scale of 0.5 gives crops to be padded
crop_size = (360, 360)
# 0.5, 0.6, .., 2.0 times 480x360
scales = [(48 * tenth, 36 * tenth) for tenth in range(5, 21)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomChoiceResize', scales=scales, resize_type='Resize', keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1, num_workers=2, dataset=dict(data_root=data_root, metainfo=metainfo)
)
test_dataloader = val_dataloader
