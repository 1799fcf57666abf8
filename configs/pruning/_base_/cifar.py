# SFP's recipe for CIFAR: 200 epochs at batch 128, the first one at a tenth of the rate.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
param_scheduler = [
    dict(type='ConstantLR', factor=0.1, begin=0, end=1),
    dict(type='MultiStepLR', milestones=[60, 120, 160], gamma=0.2),
]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
