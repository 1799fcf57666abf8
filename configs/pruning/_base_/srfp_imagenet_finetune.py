# From a trained network the factor ends lower.
_base_ = 'srfp_imagenet.py'
custom_hooks = [dict(_base_.custom_hooks[0], sigma=1e-5)]
