# Branches behind a trained network, which stays as it is; so does its accuracy, and the best
# checkpoint is chosen by theirs.
_base_ = ['cifar100.py', 'schedule_100.py']
kd = dict(type='HSSAKDTeacher', evaluate_branches=True)
default_hooks = dict(checkpoint=dict(save_best='joint/sum'))
