# The base library's config: 8 GPUs with 32 images, 100 epochs. It starts as the papers' network
# does, and no epoch's checkpoint is kept but the last and the best.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
model = dict(
    backbone=dict(zero_init_residual=False),
    head=dict(init_cfg=None),  # torch's own
)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater')
)
