# CIRKD with a student whose backbone is pruned while it learns: 100 updates in 40,000 iterations.
_base_ = '../cirkd/deeplab_r101_r18_cityscapes.py'
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
custom_hooks = [
    dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.4, method='srfp', interval_iters=400)
]
