# Data and schedule of all runs on CIFAR-100; of the baselines and the methods that are compared
# learning rate and batch.
_base_ = '../../hssakd/_base_/cifar100.py'
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=300)
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
