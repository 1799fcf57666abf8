# CIFAR-100 as the archive of its authors, cifar-100-python.tar.gz, unpacked in data_root:
#   cifar-100-python/{train,test,meta}
# Statistics and augmentation are the references'; MMPretrain's own statistics differ slightly.
data_root = 'data/cifar100'
data_preprocessor = dict(
    num_classes=100,
    mean=[129.3105, 124.1085, 112.4040],
    std=[68.2125, 65.4075, 70.4055],
    to_rgb=False,  # they are RGB already
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=0),  # black
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CIFAR100',
        data_root=data_root,
        split='train',
        download=False,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CIFAR100',
        data_root=data_root,
        split='test',
        download=False,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
