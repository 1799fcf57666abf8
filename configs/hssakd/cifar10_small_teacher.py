# Branches behind the trained teacher, which stays as it is.
_base_ = '../small/cifar10/teacher.py'
load_from = 'work_dirs/cifar10_small/teacher/epoch_16.pth'
kd = dict(type='HSSAKDTeacher', channels_last=True)
param_scheduler = dict(milestones=[2, 4, 6])  # 30, 60 and 90 of 100 epochs
train_cfg = dict(max_epochs=7, val_interval=7)
default_hooks = dict(checkpoint=dict(interval=7))
