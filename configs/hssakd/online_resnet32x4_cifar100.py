_base_ = 'baseline_resnet32x4_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
