# With logit KD, which the authors weigh 0.9 on ImageNet, beside cross-entropy of weight 0.5. Their
# temperature there is not known.
_base_ = 'crd_resnet34_resnet18_imagenet.py'
model = dict(head=dict(loss=dict(loss_weight=0.5)))
kd = dict(
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0, weight=0.9)),
)
