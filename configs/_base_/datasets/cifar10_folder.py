# CIFAR-10 as JPEG files in a folder a class, for instance those of the repository CIFAR-10-images.
# Their pixels are not quite the originals'. Where they lie: the variable CIFAR10_ROOT, or
# data/cifar10. The layout:
#   train/<class>/*.jpg    test/<class>/*.jpg    (ten classes, whose alphabetical order is 0 to 9)
_base_ = './cifar100.py'
data_root = '{{$CIFAR10_ROOT:data/cifar10}}'
data_preprocessor = dict(
    num_classes=10,
    # of these files, R, G, B
    mean=[125.27, 122.93, 113.86],
    std=[62.53, 61.91, 66.46],
    to_rgb=True,  # OpenCV reads BGR
)
train_pipeline = [dict(type='LoadImageFromFile'), *_base_.train_pipeline]
test_pipeline = [dict(type='LoadImageFromFile'), *_base_.test_pipeline]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        with_label=True,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='test',
        with_label=True,
        test_mode=True,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
