_base_ = 'baseline_mobilenetv2_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
