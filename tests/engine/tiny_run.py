"""A run of a few milliseconds an iteration, through the real Runner."""

import copy
import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from kdmm.engine import Runner
from kdmm.registry import DATASETS
from tests.distillers.tiny_models import CLASSES, tiny

PREPROCESSOR = dict(type='ImgDataPreprocessor')
KD: dict[str, Any] = dict(
    teacher=dict(model=tiny(6, data_preprocessor=PREPROCESSOR), random=True),
    taps=dict(logits='head.out', body='body.out'),
    losses=dict(
        kd=dict(type='KDLoss', on='logits'), parts=dict(type='Parts', on='body', weight=0.1)
    ),
    probe_size=(16, 16),
)
_NUMBER = itertools.count()


@DATASETS.register_module(force=True)
class TinyData:
    """Images that depend on index and on all three generators, as augmentation does."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, size: int = 8, label: int | None = None) -> None:
        self.size, self.label = size, label

    def full_init(self) -> None:
        pass

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.full((3, 16, 16), float(index)) + torch.rand(1)
        image += random.random() + np.random.rand()
        label = torch.arange(256).view(1, 16, 16) % CLASSES
        if self.label is not None:
            label[0, 3, 4] = self.label
        sample = SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label), img_path=f'{index}.png')
        return dict(inputs=image, data_samples=sample)


@METRICS.register_module(force=True)
class TinyMetric(BaseMetric):
    """Counts images; ``values`` are handed out one a validation."""

    values: list[Any] = []

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results: list[int]) -> dict[str, Any]:
        return dict(score=self.values.pop(0)) if self.values else dict(images=len(results))


def config(work_dir: Path, kd: dict | None = KD, iters: int = 4, **changes: Any) -> Config:
    """Keys of ``changes`` are dotted, as in ``--cfg-options``."""
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='kdmm.TinyData'))
    cfg = Config(
        dict(
            default_scope='mmengine',
            work_dir=str(work_dir),
            experiment_name=f'tiny_{next(_NUMBER)}',
            model=tiny(data_preprocessor=PREPROCESSOR),
            train_dataloader=dict(loader, sampler=dict(type='InfiniteSampler', shuffle=True)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=10**6),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
                logger=dict(type='LoggerHook', interval=1),
            ),
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
            randomness=dict(seed=0),
            log_level='ERROR',
        )
    )
    if kd is not None:
        cfg.kd = copy.deepcopy(kd)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


def validated(cfg: Config, interval: int = 2) -> Config:
    """``cfg`` with a validation every ``interval`` iterations."""
    cfg.val_dataloader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(type='kdmm.TinyData', size=4),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    cfg.val_cfg, cfg.val_evaluator = dict(), dict(type='TinyMetric')
    cfg.train_cfg.val_interval = interval
    return cfg


def by_epoch(cfg: Config, epochs: int = 2) -> Config:
    """``cfg`` in MMEngine's epoch-based loop."""
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    return cfg


def runner(work_dir: Path, **options: Any) -> Runner:
    return Runner.from_cfg(config(work_dir, **options))


def files(work_dir: Path) -> list[str]:
    return sorted(path.name for path in Path(work_dir).glob('*.p*t*'))
