"""The files that bad inputs begin from: tiny jobs of three libraries that train as they stand."""

import os
import shutil
from pathlib import Path

import torch

from tests.e2e.job import save_teacher, write_job
from tests.e2e.tiny_boxes import VOC_CLASSES, write_coco
from tests.e2e.tiny_cifar import write_folder

TAIL = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=100)
val_cfg, test_cfg = dict(), dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.001))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
randomness = dict(seed=0)
"""

DETECTION = (
    """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3),
    backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1,
                              ratios=[1.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4,
                                 min_pos_iou=0, ignore_iof_thr=-1),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=20, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=5))
dataset = dict(type='CocoDataset', data_root='coco', ann_file='annotations/train.json',
               data_prefix=dict(img='train'), metainfo=dict(classes=('dog', 'person')),
               pipeline=[dict(type='LoadImageFromFile'),
                         dict(type='LoadAnnotations', with_bbox=True),
                         dict(type='Resize', scale=(96, 64)), dict(type='PackDetInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='InfiniteSampler', shuffle=False))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(test_mode=True, **dataset),
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='coco/annotations/train.json', metric='bbox')
test_evaluator = val_evaluator
"""
    + TAIL
)

CLASSIFICATION = (
    """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=3, mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8,
                  norm_cfg=dict(type='BN')),
    neck=[dict(type='GlobalAveragePooling'),
          dict(type='LinearNeck', in_channels=64, out_channels=8, norm_cfg=dict(type='BN1d'))],
    head=dict(type='LinearClsHead', num_classes=3, in_channels=8, topk=(1,)))
dataset = dict(type='CustomDataset', data_root='folders', data_prefix='train',
               pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
"""
    + TAIL
)


def write_world(root: Path) -> None:
    """Write everything below ``root``.

    ``kd.py``, ``plain.py``, ``teacher.py``, ``teacher.pth``, ``student.pth`` and ``data`` are a
    segmentation job; ``det.py`` and ``coco`` a detection job; ``cls.py`` and ``folders`` one of
    classification. ``run`` and ``run_kd`` are work dirs that hold a checkpoint to resume from.
    """
    from mmengine.registry import DefaultScope

    from kdmm.config import load_config
    from kdmm.engine.runner import build_runner

    job = write_job(root)
    for name in ('plain.py', 'kd.py'):
        file = root / name
        content = file.read_text().replace("custom_imports = dict(imports=['e2e_hooks'])", '')
        file.write_text(content.replace("dict(type='AccidentHook'), ", ''))
    save_teacher(job)
    write_coco(root / 'coco', dict(train='train'), VOC_CLASSES)
    write_folder(root / 'folders', 3, 2)
    (root / 'det.py').write_text(DETECTION)
    (root / 'cls.py').write_text(CLASSIFICATION)
    here = Path.cwd()
    os.chdir(root)
    try:
        for config, name in (('plain.py', 'run'), ('kd.py', 'run_kd')):
            cfg = load_config(config, {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 100,
                                       'default_hooks.checkpoint.interval': 2}, name)  # fmt: skip
            cfg.experiment_name, cfg.log_level = f'world_{name}', 'ERROR'
            build_runner(cfg).train()
        weights = torch.load('run/iter_2.pth', weights_only=False)['state_dict']
        torch.save(dict(state_dict=weights), 'student.pth')
    finally:
        os.chdir(here)
        DefaultScope._instance_dict.clear()
    for log in root.glob('run*/2*'):
        shutil.rmtree(log)
