# Linear evaluation: a new classifier on the frozen features of a run, with images that the run did
# not see. Name the run: --cfg-options model.backbone.init_cfg.checkpoint=<file>
_base_ = 'student.py'
subset = dict(
    type='kdmm.StratifiedSubset',
    per_class=500,
    seed=0,
    rest=True,
    dataset=_base_.train_dataloader.dataset.dataset,
)
train_dataloader = dict(dataset=dict(dataset=dict(_delete_=True, **subset)))
model = dict(
    backbone=dict(
        frozen_stages=4,  # all, in eval mode
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=0.0))
param_scheduler = dict(milestones=[3, 6, 9])
train_cfg = dict(max_epochs=10, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
