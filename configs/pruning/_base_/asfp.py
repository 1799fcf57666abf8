# ASFP (arXiv 1808.07471): SFP at a rate that grows.
custom_hooks = [dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.4, method='asfp')]
