# Ablation: the memory pixel-to-region term alone.
_base_ = './deeplab_r101_r18_cityscapes.py'
kd = dict(
    losses=dict(
        _delete_=True,
        memory=dict(_base_.kd.losses.memory, weight=dict(region=0.1)),
    )
)
