"""A tiny distillation job: data, configs and a teacher, and ways to run it as a user does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

PLAIN = """
default_scope = 'mmseg'
custom_imports = dict(imports=['e2e_hooks'])
norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3,
                           bgr_to_rgb=True, size=(48, 48), seg_pad_val=255),
    backbone=dict(type='ResNetV1c', depth=18, num_stages=4, out_indices=(0, 1, 2, 3),
                  strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), stem_channels=8, base_channels=8,
                  norm_cfg=norm_cfg, contract_dilation=True),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1,
                     num_classes=4, norm_cfg=norm_cfg, dropout_ratio=0.1,
                     loss_decode=dict(type='CrossEntropyLoss')),
    auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1,
                        num_classes=4, norm_cfg=norm_cfg, concat_input=False,
                        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(48, 48)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root='DATA', img_suffix='.png', seg_map_suffix='.png',
               metainfo=dict(classes=('a', 'b', 'c', 'd'), palette=[[i, i, i] for i in range(4)]),
               data_prefix=dict(img_path='img', seg_map_path='ann'))
train_dataloader = dict(batch_size=4, num_workers=0,
                        sampler=dict(type='InfiniteSampler', shuffle=True),
                        dataset=dict(pipeline=pipeline, **dataset))
val_dataloader = dict(batch_size=1, num_workers=0,
                      sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(pipeline=[pipeline[0], pipeline[1], pipeline[-1]], **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper',
                     optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=8, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4))
randomness = dict(seed=3)
"""

KD = """
_base_ = './plain.py'
custom_hooks = [dict(type='AccidentHook'), dict(type='EMAHook', momentum=0.01)]
kd = dict(
    teacher=dict(config='TEACHER.py', checkpoint='TEACHER.pth'),
    taps=dict(logits='decode_head.conv_seg.out', pixels='decode_head.conv_seg.in'),
    losses=dict(
        kd=dict(type='KDLoss', on='logits', weight=dict(type='Linear', start=0.5, stop=1, end=6)),
        p2p=dict(type='CIRKDMiniBatchLoss', on='pixels'),
        memory=dict(type='CIRKDMemoryLoss', on='pixels', pixel_size=40, region_size=9,
                    pixel_keys=40, region_keys=20, weight=dict(pixel=0.1, region=0.1))))
"""

TEACHER = """
_base_ = './plain.py'
model = dict(backbone=dict(stem_channels=16, base_channels=16),
             decode_head=dict(in_channels=128, channels=24),
             auxiliary_head=dict(in_channels=64))
"""


@dataclass
class Job:
    """Files of one tiny job below ``root``: ``plain.py``, ``kd.py``, ``teacher.py``."""

    root: Path

    def environment(self, **extra: str) -> dict[str, str]:
        """Of a user in a checkout: the sources and the test hooks on the path."""
        path = os.pathsep.join([str(ROOT), str(HERE)])
        own = dict(PYTHONPATH=path, OMP_NUM_THREADS='1', E2E_BRIEF='1')
        return {**os.environ, **own, **extra}

    def train(
        self, config: str, name: str, *args: str, processes: int = 0, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """``tools/train.py``, or ``tools/dist_train.sh`` with ``processes``, into ``root/name``."""
        tail = ['--work-dir', str(self.root / name), *args]
        if processes:
            command = ['bash', str(ROOT / 'tools/dist_train.sh'), config, str(processes), *tail]
        else:
            command = [sys.executable, str(ROOT / 'tools/train.py'), config, *tail]
        return self.run(command, check=check, **env)

    def run(
        self, command: Sequence[str], check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run in ``root``; on an unexpected exit code the output is the failure message."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            pytest.fail(
                f'{command}\nexit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}'
            )
        return done

    def checkpoint(self, name: str, iteration: int) -> dict[str, Any]:
        """A written file, with everything in it."""
        path = self.root / name / f'iter_{iteration}.pth'
        return torch.load(path, map_location='cpu', weights_only=False)


def write_job(root: Path) -> Job:
    """Draw eight images, write the configs, and save an untrained but fixed teacher."""
    (root / 'data/img').mkdir(parents=True)
    (root / 'data/ann').mkdir()
    random = np.random.default_rng(0)
    for index in range(8):
        labels = np.kron(random.integers(0, 4, (4, 5)), np.ones((14, 14))).astype(np.uint8)
        image = (labels[..., None] * 50 + random.integers(0, 50, (*labels.shape, 3))).astype(
            'uint8'
        )
        cv2.imwrite(str(root / f'data/img/{index}.png'), image)
        cv2.imwrite(str(root / f'data/ann/{index}.png'), labels)
    (root / 'plain.py').write_text(PLAIN.replace('DATA', 'data'))
    (root / 'kd.py').write_text(KD.replace('TEACHER', 'teacher'))
    (root / 'teacher.py').write_text(TEACHER)
    return Job(root)


def save_teacher(job: Job) -> None:
    """Random weights from a fixed seed, as a checkpoint file."""
    from mmengine.registry import MODELS

    import kdmm  # noqa: F401
    from kdmm.teachers.teacher import load_model_config

    spec, scope = load_model_config(str(job.root / 'teacher.py'))
    torch.manual_seed(1)
    model = MODELS.build(dict(spec, _scope_=scope))
    torch.save(dict(state_dict=model.state_dict()), job.root / 'teacher.pth')


def assert_same(left: Any, right: Any, where: str = '') -> None:
    """Nested dicts and lists of tensors and numbers are equal to the bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f'{where}.{key}')
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f'{where}[{index}]')
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f'{where}: {(left - right).abs().max()}'
    else:
        assert left == right, where
