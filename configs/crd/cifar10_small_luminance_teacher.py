# ResNet-14 on lightness: the teacher of the runs luminance -> chrominance.
_base_ = ['../small/cifar10/teacher.py', '_base_/cifar10_small_views.py']
data_preprocessor = _base_.luminance
model = dict(backbone=dict(in_channels=1))
convert = [dict(type='kdmm.ToLuminance', channels=1), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[*_base_.augment, *convert])))
val_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *convert]))
test_dataloader = val_dataloader
