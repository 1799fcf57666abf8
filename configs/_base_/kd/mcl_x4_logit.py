# The logit term: of four networks the last learns the mean of all, so it is the one to keep.
# Its temperature, 3 by default, is left out: a config with its old name can still set it.
_base_ = 'mcl_x4.py'
kd = dict(
    keep=3,
    taps=dict(logits='head.fc.out'),
    losses=dict(logit=dict(type='EnsembleKDLoss', on='logits')),
)
