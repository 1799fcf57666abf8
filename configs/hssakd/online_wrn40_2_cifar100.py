_base_ = 'baseline_wrn40_2_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
