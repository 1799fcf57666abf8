# Ablation: the mini-batch pixel-to-pixel term alone.
_base_ = './deeplab_r101_r18_cityscapes.py'
kd = dict(losses=dict(_delete_=True, p2p=_base_.kd.losses.p2p))
