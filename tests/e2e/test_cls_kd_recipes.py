"""The configs of configs/cls_kd: published weights, one regime for all, any MMPretrain pair."""

import math
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

pytest.importorskip('mmpretrain')

import torch  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from kdmm.distillers import distill  # noqa: E402

from .config_table import CONFIGS, FAMILIES, read  # noqa: E402

METHODS = ('at', 'cc', 'dist', 'dkd', 'fitnet', 'nst', 'pkt', 'rkd', 'sp', 'vid')


def base_of(method: str) -> Path:
    """The file for a config of one's own; some methods have one for segmentors, too."""
    folder = CONFIGS / '_base_/kd'
    name = f'{method}_classifier.py'
    return folder / name if (folder / name).is_file() else folder / f'{method}.py'


def final(weight: Any) -> float:
    """A number, or where a schedule ends."""
    return weight if isinstance(weight, float) else weight['stop']


def test_every_method_has_a_base_and_a_small_config() -> None:
    assert FAMILIES['cls_kd'].names == [f'cls_kd/cifar10_small_{name}.py' for name in METHODS]
    assert all(base_of(name).is_file() for name in METHODS)


@pytest.mark.parametrize('method', METHODS)
def test_only_the_method_differs(method: str) -> None:
    """Student, data, budget, seed and teacher are those of logit distillation, the control."""
    found = read(f'cls_kd/cifar10_small_{method}.py').to_dict()
    control = read('hssakd/cifar10_small_kd.py').to_dict()
    mine, theirs = (cfg.pop('kd') for cfg in (found, control))
    assert all(cfg.pop('work_dir') for cfg in (found, control))
    assert found == control and mine['teacher'] == theirs['teacher']
    assert set(mine) == {'teacher', 'taps', 'losses'}
    base = Config.fromfile(base_of(method)).kd
    assert {name: loss['type'] for name, loss in mine['losses'].items()} == {
        name: loss['type'] for name, loss in base.losses.items()
    }


def test_weights_are_those_of_the_public_comparisons() -> None:
    """RepDistiller's benchmark at a batch of 64; DKD of mdistiller; DIST of its authors."""
    weights = {}
    for method in METHODS:
        for name, loss in Config.fromfile(base_of(method)).kd.losses.items():
            parts = loss['weight']
            named = isinstance(parts, dict)
            weights[name] = {k: final(w) for k, w in parts.items()} if named else parts
            if loss.get('reduction') == 'rows':
                weights[name] *= 64  # the mean over B * B pairs is 1 / B of the sum over a row
    assert weights == dict(
        at1=1000.0, at2=1000.0, at3=1000.0, fitnet=100.0, sp=3000.0, cc=0.02, vid=1.0, pkt=30000.0,
        nst=50.0, rkd=dict(distance=25.0, angle=50.0), dkd=dict(target=1.0, others=8.0),
        dist=dict(inter=2.0, intra=2.0),
    )  # fmt: skip
    for cfg, epochs in (
        (Config.fromfile(base_of('dkd')), 240),
        (read('cls_kd/cifar10_small_dkd.py'), 16),
    ):
        loss = cfg.kd.losses.dkd
        assert loss.temperature == 4
        for weight in loss.weight.values():
            assert (weight.start, weight.unit) == (0, 'epoch')
            assert math.isclose(weight.end / epochs, 20 / 240)
    small = read('cls_kd/cifar10_small_dist.py').kd.losses.dist
    assert Config.fromfile(base_of('dist')).kd.losses.dist.temperature == 1
    assert small.temperature == 4


def classifier(depth: int) -> dict[str, Any]:
    """A ResNet of MMPretrain of a quarter of the width."""
    return dict(
        type='ImageClassifier',
        _scope_='mmpretrain',
        backbone=dict(type='ResNet', depth=depth, base_channels=16 if depth < 50 else 8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=7,
            in_channels=128 if depth < 50 else 256,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def test_all_methods_at_once_on_a_pair_of_mmpretrain() -> None:
    """The sections of all files need nothing but a teacher where the networks are ResNets."""
    taps: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    for method in METHODS:
        section = Config.fromfile(base_of(method)).kd.to_dict()
        assert set(section) == {'taps', 'losses'}
        assert all(taps.get(name, path) == path for name, path in section['taps'].items())
        taps.update(section['taps'])
        losses.update(section['losses'])
    for weight in losses['dkd']['weight'].values():
        weight['start'] = 0.1  # so that it counts in the first step
    teacher = dict(model=classifier(50), random=True)
    model = distill(classifier(18), teacher=teacher, taps=taps, losses=losses).train()
    samples = [DataSample().set_gt_label(k) for k in (3, 0, 6, 3)]
    torch.manual_seed(0)
    found = model(torch.randn(4, 3, 64, 64), samples, mode='loss')
    terms = {name: value for name, value in found.items() if name.startswith('kd.loss_')}
    assert len(terms) == 15
    assert all(value.isfinite() and value != 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in model.kd.parameters())
