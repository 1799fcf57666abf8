_base_ = '../cifar10_small/student.py'
kd = dict(type='HSSAKDOnline', peers=2, channels_last=True)
