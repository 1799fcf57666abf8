# From a trained network the factor ends lower.
_base_ = 'asrfp_imagenet.py'
custom_hooks = [dict(_base_.custom_hooks[0], sigma=1e-5)]
