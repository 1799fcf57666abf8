# Ablation and control: logit KD alone.
_base_ = './deeplab_r101_r18_cityscapes.py'
kd = dict(losses=dict(_delete_=True, kd=_base_.kd.losses.kd))
