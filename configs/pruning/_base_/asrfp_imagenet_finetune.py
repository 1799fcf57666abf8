# Filters are zero from 80 % of training on, and the rate is final from 90 % on.
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
custom_hooks = [
    dict(
        type='kdmm.SoftFilterPruningHook',
        prune_rate=0.4,
        method='asrfp',
        sigma=1e-5,
        alpha_end=0.8,
        rate_end=0.9,
        alpha_zero_below=1e-4,
    )
]
