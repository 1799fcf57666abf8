# ASRFP (arXiv 2010.09498): SRFP at a rate that grows.
custom_hooks = [dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.4, method='asrfp')]
