# Channel-wise distillation (arXiv 2011.13256) of the logits, its authors' choice, beside logit KD.
# Its temperature, 4 by default, is left out: a config with its old name can still set it.
_base_ = './kd.py'
kd = dict(losses=dict(cwd_logits=dict(type='CWDLoss', on='logits', weight=3.0)))
