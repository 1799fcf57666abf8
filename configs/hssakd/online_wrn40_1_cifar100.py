_base_ = 'baseline_wrn40_1_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
