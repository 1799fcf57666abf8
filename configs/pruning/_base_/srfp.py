# SRFP (arXiv 2010.09498): the filters fade.
custom_hooks = [dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.4, method='srfp')]
