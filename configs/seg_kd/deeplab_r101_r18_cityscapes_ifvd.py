# IFVD, logit KD, discriminator.
_base_ = ['./_base_.py', '../_base_/kd/ifvd_adversarial.py']
kd = dict(
    teacher=dict(
        config='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='zoo',
    )
)
