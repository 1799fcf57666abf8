"""HSSAKD on a dozen images of 8x8 pixels: configs of a run, files, and what a classifier says."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from kdmm.engine import build_runner
from tests.e2e.tiny_cifar import write_folder

#: 3 classes of 4 images: 3 iterations an epoch.
CLASSES, IMAGES, SIZE, BATCH = 3, 12, 8, 4
SMALL = dict(type='kdmm.CIFARResNet', depth=8, block='basic', widths=(4, 4, 4, 8))
WIDER = dict(type='kdmm.CIFARResNet', depth=8, block='basic', widths=(4, 4, 8, 12))
#: For training in channels_last, see `tests.distillers.hssakd.classifiers.eight_channels`.
EIGHT = dict(SMALL, widths=(8, 8, 8, 12))
MMPRETRAIN = dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4)
_NUMBER = itertools.count()


def write_images(root: Path, size: int = SIZE) -> Path:
    """Folders ``train`` and ``test``."""
    write_folder(root, CLASSES, IMAGES // CLASSES, size)
    return root


def classifier(backbone: dict[str, Any] = SMALL, classes: int = CLASSES) -> dict[str, Any]:
    """As MMPretrain writes it."""
    if 'widths' in backbone:
        channels = backbone['widths'][-1]
    else:
        channels = 8 * backbone['base_channels'] * (4 if backbone['depth'] >= 50 else 1)
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            num_classes=classes, mean=[125.0, 120.0, 110.0], std=[60.0, 61.0, 62.0], to_rgb=True
        ),
        backbone=dict(backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=classes,
            in_channels=channels,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        ),
    )


def config(
    data: Path,
    work_dir: Path,
    kd: dict[str, Any] | None = None,
    backbone: dict[str, Any] = SMALL,
    epochs: int = 2,
    **changes: Any,
) -> Config:
    """Keys of ``changes`` are dotted (``__``), as in ``--cfg-options``."""
    flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            experiment_name=f'hssakd_{next(_NUMBER)}',
            model=classifier(backbone),
            train_dataloader=_loader(data, 'train', True, flip),
            val_dataloader=_loader(data, 'test', False),
            test_dataloader=_loader(data, 'test', False),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            test_evaluator=dict(type='Accuracy', topk=(1,)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
            val_cfg=dict(),
            test_cfg=dict(),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
            ),
            param_scheduler=dict(type='MultiStepLR', milestones=[1], gamma=0.1),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1, save_best='accuracy/top1'),
                logger=dict(type='LoggerHook', interval=1),
            ),
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
            randomness=dict(seed=0),
            log_level='ERROR',
        )
    )
    if str(backbone['type']).startswith('kdmm.'):
        cfg.custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
    if kd is not None:
        cfg.kd = kd
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


def _loader(data: Path, split: str, shuffle: bool, *steps: Any) -> dict[str, Any]:
    pipeline = [dict(type='LoadImageFromFile'), *steps, dict(type='PackInputs')]
    return dict(
        batch_size=BATCH,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        dataset=dict(
            type='CustomDataset',
            data_root=str(data),
            data_prefix=split,
            with_label=True,
            pipeline=pipeline,
        ),
    )


@dataclass
class Run:
    """A run's config, its model at the end, and its files."""

    cfg: Config
    runner: Runner

    @property
    def model(self) -> Any:
        return self.runner.model

    @property
    def folder(self) -> Path:
        return Path(self.cfg.work_dir)

    def files(self) -> list[Path]:
        """All that it wrote for a network."""
        return sorted(self.folder.glob('*.pth'))

    def file(self, name: str) -> dict[str, Any]:
        """A file with everything in it."""
        return torch.load(self.folder / name, map_location='cpu', weights_only=False)

    def plain(self, state: dict[str, Tensor] | str) -> Any:
        """The base library's classifier, in eval mode, with a file's weights and no others."""
        state = self.file(state)['state_dict'] if isinstance(state, str) else state
        model = MODELS.build(dict(self.cfg.model, _scope_='mmpretrain'))
        model.load_state_dict(state, strict=True)
        return model.eval()


def train(cfg: Config, *hooks: Hook) -> Run:
    """A run from its start to its end, without a look at compilers for the log."""
    with mock.patch('mmengine.runner.runner.collect_env', dict):
        runner = build_runner(cfg)
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()
    return Run(cfg, runner)


@torch.no_grad()
def logits(model: nn.Module, size: int = SIZE) -> Tensor:
    """Of five images, (5, CLASSES)."""
    images = torch.randint(0, 256, (5, 3, size, size), generator=torch.Generator().manual_seed(3))
    data = model.data_preprocessor(dict(inputs=list(images.byte())), False)
    return model(data['inputs'], mode='tensor')


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all its tensors."""
    return {key: value.clone() for key, value in module.state_dict().items()}
