# Linear evaluation of a student of chroma: a new classifier on its frozen backbone, with images
# that it did not see. Name the run: --cfg-options model.backbone.init_cfg.checkpoint=<file>
_base_ = ['../small/cifar10/probe.py', '_base_/cifar10_small_views.py']
data_preprocessor = _base_.chrominance
model = dict(backbone=dict(in_channels=2))
convert = [dict(type='kdmm.ToChrominance'), dict(type='PackInputs')]
# a subset of the rest of all images
train_dataloader = dict(
    dataset=dict(dataset=dict(dataset=dict(pipeline=[*_base_.augment, *convert])))
)
val_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *convert]))
test_dataloader = val_dataloader
