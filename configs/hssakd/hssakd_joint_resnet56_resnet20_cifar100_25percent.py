# A quarter of each class's training images. Others: train_dataloader.dataset.fraction=0.5
_base_ = 'hssakd_joint_resnet56_resnet20_cifar100.py'
subset = dict(
    type='kdmm.StratifiedSubset', fraction=0.25, seed=0, dataset=_base_.train_dataloader.dataset
)
train_dataloader = dict(dataset=dict(_delete_=True, **subset))
