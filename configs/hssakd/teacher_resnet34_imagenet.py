# Branches behind MMPretrain's own weights, which its metafile gives 73.62.
_base_ = '_base_/resnet34_imagenet.py'
load_from = (
    'https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth'  # noqa: E501
)
kd = dict(type='HSSAKDTeacher', evaluate_branches=True)
default_hooks = dict(checkpoint=dict(save_best='joint/sum'))
