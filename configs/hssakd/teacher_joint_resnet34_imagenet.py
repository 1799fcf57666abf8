# Teacher*: network and branches trained together.
_base_ = '_base_/resnet34_imagenet.py'
kd = dict(type='HSSAKDTeacher', joint=True, evaluate_branches=True)
default_hooks = dict(checkpoint=dict(save_best='joint/sum'))
