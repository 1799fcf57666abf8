# Logit distillation, the control. The temperature is RepDistiller's; both terms count 1.
kd = dict(
    taps=dict(logits='head.fc.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0, weight=1.0)),
)
