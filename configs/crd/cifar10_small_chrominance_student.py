# ResNet-8 of half the width on chroma, with labels: the student alone.
_base_ = ['../small/cifar10/student.py', '_base_/cifar10_small_views.py']
data_preprocessor = _base_.chrominance
model = dict(backbone=dict(in_channels=2))
convert = [dict(type='kdmm.ToChrominance'), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[*_base_.augment, *convert])))
val_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *convert]))
test_dataloader = val_dataloader
