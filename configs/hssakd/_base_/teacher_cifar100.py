# Branches behind a trained network, which stays as it is; so does its accuracy, and the best
# checkpoint is chosen by theirs.
_base_ = ['cifar100.py', '../../_base_/schedules/cifar_240e.py']
param_scheduler = dict(milestones=[30, 60, 90])
train_cfg = dict(max_epochs=100)
kd = dict(type='HSSAKDTeacher', evaluate_branches=True)
default_hooks = dict(checkpoint=dict(save_best='joint/sum'))
