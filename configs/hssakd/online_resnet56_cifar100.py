_base_ = 'baseline_resnet56_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
