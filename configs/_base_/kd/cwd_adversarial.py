# With the discriminator that judges logits (arXiv 1903.04197); they must be 64 x 64 at least.
_base_ = './cwd.py'
kd = dict(losses=dict(adv=dict(type='AdversarialLoss', on='logits', d_weight=0.1, weight=0.001)))
