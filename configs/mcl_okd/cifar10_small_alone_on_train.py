# The accuracy on the training images, to be told by tools/test.py of any arm's file.
_base_ = 'cifar10_small_alone.py'
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kdmm.StratifiedSubset',
        per_class=100,
        seed=0,
        dataset=dict(
            type='CustomDataset',
            data_root=_base_.data_root,
            data_prefix='train',
            with_label=True,
            test_mode=True,
            pipeline=_base_.test_pipeline,
        ),
    )
)
