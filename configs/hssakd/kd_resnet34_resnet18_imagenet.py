# Logit distillation on ImageNet as CRD's authors did it: cross-entropy 0.5, KD 0.9. Their
# temperature there is not known.
_base_ = ['_base_/resnet18_imagenet.py', '../_base_/kd/kd_classifier.py']
model = dict(head=dict(loss=dict(loss_weight=0.5)))
kd = dict(
    teacher=dict(config='mmpretrain::resnet/resnet34_8xb32_in1k.py', checkpoint='zoo'),
    losses=dict(kd=dict(weight=0.9)),
)
