"""Segmentors and detectors that learn together: a section of the config, as for classifiers."""

import itertools
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor

from kdmm.engine import build_runner, load_config
from kdmm.hooks.ownership import objective_of
from tests.e2e.job import write_job
from tests.e2e.tiny_boxes import COCO, write_coco

_NUMBER = itertools.count()


def train(cfg: Config, work_dir: Path, kd: dict[str, Any]) -> Any:
    """Two iterations and a validation; the runner."""
    cfg.merge_from_dict(dict(work_dir=str(work_dir), experiment_name=f'tasks_{next(_NUMBER)}'))
    cfg.kd = dict(type='Cohort', **kd)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    with mock.patch('mmengine.runner.runner.collect_env', dict):
        runner = build_runner(cfg)
        runner.train()
    return runner


def metrics(runner: Any) -> dict[str, float]:
    logged = runner.message_hub.log_scalars.items()
    return {key[4:]: value.current() for key, value in logged if key.startswith('val/')}


def plain(cfg: Config, file: Path) -> Any:
    """The base library's model with a file's weights and no others."""
    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        model = registry.build(cfg.model)
    model.load_state_dict(torch.load(file, weights_only=False)['state_dict'], strict=True)
    return model.eval()


# segmentors

TRUNK = [f'backbone.{name}' for name in ('stem', 'maxpool', 'layer1', 'layer2')]


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """FCN on ResNet-18 of an eighth of the width; its backbone gives all stages."""
    pytest.importorskip('mmseg')
    root = write_job(tmp_path_factory.mktemp('job')).root
    cfg = load_config(str(root / 'plain.py'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(root / 'data')
    return cfg


@pytest.mark.parametrize('trunk', [(), TRUNK], ids=['apart', 'trunk'])
def test_segmentors_teach_each_other(segmentor: Config, trunk: Any, tmp_path: Path) -> None:
    losses = dict(kd=dict(type='KDLoss', on='logits'))
    taps = dict(logits='decode_head.conv_seg.out')
    kd = dict(peers=2, trunk=trunk, taps=taps, losses=losses)
    runner = train(Config(segmentor.to_dict()), tmp_path, kd)
    logged = {key for key in runner.message_hub.log_scalars if 'loss' in key}
    own = {'decode.loss_ce', 'aux.loss_ce'}
    expected = {*own, *(f'kd.peer1_{key}' for key in own), 'kd.loss_kd', 'loss'}
    assert logged == {f'train/{key}' for key in expected}
    assert runner.message_hub.get_scalar('train/kd.loss_kd').data[0].min() > 0
    found = metrics(runner)
    every = []
    for prefix, name in (('', 'iter_2.pth'), ('peer1/', 'peer1.pth')):
        maps, labels = shown(runner, plain(segmentor, tmp_path / name))
        every.append(maps)
        assert found[f'{prefix}aAcc'] == pytest.approx(accuracy(maps, labels), abs=0.006)
    both = [(a + b) / 2 for a, b in zip(*every, strict=True)]
    assert found['ensemble/aAcc'] == pytest.approx(accuracy(both, labels), abs=0.006)
    for prefix in ('', 'peer1/', 'ensemble/'):
        assert {f'{prefix}mIoU', f'{prefix}mAcc'} <= found.keys()


@torch.no_grad()
def shown(runner: Any, network: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and labels of each validation image."""
    samples = [network.val_step(batch)[0] for batch in runner.val_dataloader]
    return [s.seg_logits.data for s in samples], [s.gt_sem_seg.data[0] for s in samples]


def accuracy(maps: list[Tensor], labels: list[Tensor]) -> float:
    """In percent, of all pixels."""
    right = torch.cat([(z.argmax(0) == y).flatten() for z, y in zip(maps, labels, strict=True)])
    return 100 * float(right.double().mean())


# detectors


@pytest.fixture
def detector(tmp_path: Path) -> Config:
    """RetinaNet on ResNet-18 of an eighth of the width, on four images."""
    pytest.importorskip('mmdet')
    write_coco(tmp_path / 'data', COCO, ('person', 'car'))
    cfg = load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    cfg.model.backbone.update(base_channels=8, stem_channels=8, init_cfg=None, norm_eval=False)
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    cfg.model.bbox_head.update(num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1)
    cfg.model.test_cfg.score_thr = 0.0  # after two iterations no box has more
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.update(
            data_root=str(tmp_path / 'data'), metainfo=dict(classes=('person', 'car'))
        )
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (96, 64)
    annotations = str(tmp_path / 'data/annotations/instances_val2017.json')
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = annotations
    cfg.default_hooks.logger.interval = 1
    return cfg


def test_detectors_train_without_an_ensemble(
    detector: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One word about it; the peer is measured and written."""
    taps = dict(maps='neck.out[0]')
    losses = dict(cwd=dict(type='CWDLoss', on='maps'))
    kd = dict(peers=2, taps=taps, losses=losses)
    with mock.patch.object(logging.Logger, 'warning') as warned:
        runner = train(Config(detector.to_dict()), tmp_path / 'run', kd)
    said = [str(call.args[0]) for call in warned.call_args_list]
    assert sum('kd.ensemble: no ensemble is evaluated' in text for text in said) == 1
    found = metrics(runner)
    assert {'coco/bbox_mAP', 'peer1/coco/bbox_mAP'} <= found.keys()
    assert not any(key.startswith('ensemble') for key in found)
    logged = runner.message_hub.log_scalars
    for key in ('loss_cls', 'kd.peer1_loss_cls', 'kd.peer1_loss_bbox', 'kd.loss_cwd'):
        assert logged[f'train/{key}'].data[0].min() > 0, key
    for name in ('iter_2.pth', 'peer1.pth'):
        plain(detector, tmp_path / 'run' / name)
    assert list(objective_of(runner.model).networks()) == ['peer1']
