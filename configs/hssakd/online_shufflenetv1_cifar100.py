_base_ = 'baseline_shufflenetv1_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
