_base_ = 'baseline_vgg13_cifar100.py'
kd = dict(type='HSSAKDOnline', peers=2)
