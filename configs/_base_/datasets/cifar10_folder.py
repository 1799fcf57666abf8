# CIFAR-10 as JPEG files in a folder a class, for instance those of the repository CIFAR-10-images.
# Their pixels are not quite the originals'. Where they lie: the variable CIFAR10_ROOT, or
# data/cifar10. The layout:
#   train/<class>/*.jpg    test/<class>/*.jpg    (ten classes, whose alphabetical order is 0 to 9)
data_root = '{{$CIFAR10_ROOT:data/cifar10}}'
data_preprocessor = dict(
    num_classes=10,
    # of these files, R, G, B
    mean=[125.27, 122.93, 113.86],
    std=[62.53, 61.91, 66.46],
    to_rgb=True,  # OpenCV reads BGR
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=0),  # black
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        with_label=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='test',
        with_label=True,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
