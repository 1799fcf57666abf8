# The papers take the teacher's best epoch: best_joint_sum_epoch_<N>.pth in the same folder.
_base_ = '_base_/resnet18_imagenet.py'
kd = dict(
    type='HSSAKD',
    teacher=dict(
        config='mmpretrain::resnet/resnet34_8xb32_in1k.py',
        checkpoint='work_dirs/teacher_resnet34_imagenet/epoch_100.pth',
    ),
)
