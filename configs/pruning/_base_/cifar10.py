_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/datasets/cifar10.py',
    'cifar.py',
]
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
train_dataloader = dict(batch_size=128)
# the last epoch is what counts: every filter that should be zero is so then
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
