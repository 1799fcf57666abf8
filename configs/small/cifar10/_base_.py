# What all runs of docs/results/hssakd_small.md share: 500 images a class, sized for CPU cores. The
# decays are at the papers' shares of the schedule: 150, 180 and 210 of 240 epochs.
_base_ = ['mmpretrain::_base_/default_runtime.py', '../../_base_/datasets/cifar10_folder.py']
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
loader = dict(num_workers=1)
train_dataloader = dict(
    **loader,
    dataset=dict(
        _delete_=True,
        type='kdmm.StratifiedSubset',
        per_class=500,
        seed=0,
        dataset=dict(
            type='CustomDataset',
            data_root=_base_.data_root,
            data_prefix='train',
            with_label=True,
            pipeline=_base_.train_pipeline,
        ),
    ),
)
val_dataloader = dict(**loader, batch_size=500)
test_dataloader = dict(**loader, batch_size=500)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='kdmm.CIFARResNet', block='basic'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        init_cfg=None,  # torch's own
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
param_scheduler = dict(type='MultiStepLR', milestones=[10, 12, 14], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=16, val_interval=16)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=1), logger=dict(interval=20))
randomness = dict(seed=0)
# plain and distilled arms see the same augmented images in the same order
reproducible = True
