# Batch 128 in all. The banks of four branches have 2.6 GB on every device, half of it with
# kd.losses.contrast.dtype='float16'.
_base_ = ['baseline_resnet34_imagenet.py', '../_base_/kd/mcl_okd.py']
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(optimizer=dict(lr=0.05))
auto_scale_lr = dict(base_batch_size=128)
kd = dict(
    trunk=[
        'backbone.conv1',
        'backbone.bn1',
        'backbone.relu',
        'backbone.maxpool',
        'backbone.layer1',
        'backbone.layer2',
    ],
    losses=dict(contrast=dict(num_samples=1281167, negatives=16384, tau=0.07, replace=True)),
)
