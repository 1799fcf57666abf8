_base_ = '../small/cifar10/student.py'
kd = dict(type='HSSAKDOnline', peers=2, channels_last=True)
