# Channel-wise distillation (arXiv 2011.13256) of the logits, its authors' choice, beside logit KD.
_base_ = './kd.py'
kd = dict(losses=dict(cwd_logits=dict(type='CWDLoss', on='logits', tau=4.0, weight=3.0)))
