# Data and runtime of all runs on CIFAR-100.
_base_ = ['mmpretrain::_base_/default_runtime.py', '../../_base_/datasets/cifar100.py']
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater')
)
