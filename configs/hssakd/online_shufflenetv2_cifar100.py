_base_ = 'baseline_shufflenetv2_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
