# Ablation: the memory pixel-to-pixel term alone.
_base_ = './deeplab_r101_r18_cityscapes.py'
kd = dict(
    losses=dict(
        _delete_=True,
        memory=dict(_base_.kd.losses.memory, weight=dict(pixel=0.1)),
    )
)
