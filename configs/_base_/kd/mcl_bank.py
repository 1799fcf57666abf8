# MCL with memory banks: two networks, contrast with the past embeddings of all images.
_base_ = './mcl.py'
kd = dict(losses=dict(mcl=dict(type='MCLBankLoss', num_samples=1281167, negatives=8192, tau=0.07)))
