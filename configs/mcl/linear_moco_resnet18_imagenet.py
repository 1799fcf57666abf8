# Linear evaluation of mcl_moco_resnet18_imagenet.py: a classifier on the frozen features of its
# first encoder. 8 GPUs with 32 images.
_base_ = 'mmpretrain::mocov2/benchmarks/resnet50_8xb32-linear-steplr-100e_in1k.py'
model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(checkpoint='work_dirs/mcl_moco_resnet18_imagenet/epoch_200.pth'),
    ),
    head=dict(in_channels=512),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'))
