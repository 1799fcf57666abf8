# SFP (IJCAI 2018): the filters with the lowest norms are zero after each epoch.
custom_hooks = [dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.4, method='sfp')]
