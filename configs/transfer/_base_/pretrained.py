# Before the first iteration: the backbone is the file that its init_cfg names, tensor by tensor,
# and was trained on images that were normalised as these are.
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
custom_hooks = [dict(type='kdmm.PretrainedBackboneHook')]
