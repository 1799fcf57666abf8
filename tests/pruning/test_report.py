"""Counts of multiply-adds beside published formulas, and measured passes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdmm.pruning import count, extract, finalize
from kdmm.pruning.passes import backbone, pass_of, whole
from kdmm.pruning.report import dense_again, latencies, paper_macs
from tests.pruning.nets import CLASSIFIER, DETECTOR, bare, build, prune

#: Reductions in % by the formula of SFP's code, by rates of 0.1 to 0.6, and the dense network in M.
PAPER = {
    20: (40.55, (15.2, 29.3, 42.2, 54.0, 64.5, 74.0)),
    32: (68.86, (14.9, 28.8, 41.5, 53.2, 63.7, 73.2)),
    56: (125.49, (14.7, 28.4, 41.1, 52.6, 63.2, 72.6)),
    110: (252.89, (14.6, 28.2, 40.8, 52.3, 62.8, 72.3)),
}


def classifier(depth: int, rate: float = 0.0) -> Any:
    """The CIFAR network of the papers, with shortcuts without weights."""
    config = copy.deepcopy(CLASSIFIER)
    config['backbone'] = dict(type='kdmm.CIFARResNet', depth=depth, block='basic', shortcut='pad')
    config['head'].update(num_classes=10, in_channels=64)
    model: Any = build(config)
    prune(model, rate)
    return model


@pytest.mark.parametrize('depth', PAPER)
def test_the_papers_formula(depth):
    dense, reductions = PAPER[depth]
    model = classifier(depth)
    for tenths, wanted in enumerate(reductions, 1):
        after, before = paper_macs(model, (32, 32), tenths / 10)
        assert before / 1e6 == pytest.approx(dense, abs=0.005)
        assert 100 * (1 - after / before) == pytest.approx(wanted, abs=0.05), tenths


def test_the_formula_of_bottlenecks_with_shortcuts():
    """Stem r; the first block r^2, then r, r^2, r^2 in each; shortcuts as they are."""
    after, before = paper_macs(bare('cifar_bottleneck'), (8, 8), 0.5)
    stem = 3 * 8 * 9 * 64
    # width, pixels behind the stride, channels in front, and pixels of the first block's first 1x1
    pruned = shortcuts = total = 0.0
    channels = 8
    for stage, (width, before_stride, pixels) in enumerate(
        ((8, 64, 64), (12, 64, 16), (16, 16, 4))
    ):
        for block in range(2):
            first = channels * width * (pixels if block else before_stride)
            others = width * width * 9 * pixels + width * 4 * width * pixels
            pruned += first * (0.5 if stage or block else 0.25) + others * 0.25
            total += first + others
            if not block:
                shortcuts += channels * 4 * width * pixels
            channels = 4 * width
    assert before == stem + total + shortcuts
    assert after == stem * 0.5 + pruned + shortcuts


def test_the_formula_of_a_deep_stem():
    """Three convolutions to 4, 4 and 8 channels: r, then r^2; nothing else is left to differ."""
    model = bare('seg_basic')
    found = []
    for stages in (0, 1):
        net = copy.deepcopy(model)
        if stages:
            net.backbone.stem = nn.Conv2d(3, 8, 1, 2)
        found.append(paper_macs(net, (16, 16), 0.5))
    stem, plain = (3 * 4 * 9 * 64, (4 * 4 + 4 * 8) * 9 * 64), 3 * 8 * 64
    assert found[0][1] - found[1][1] == sum(stem) - plain
    assert found[0][0] - found[1][0] == stem[0] / 2 + stem[1] / 4 - plain / 2


@pytest.mark.parametrize(
    'depth, rate, macs, parameters',
    [(20, 0.4, 49.9, 51.3), (32, 0.1, 12.2, 13.6), (56, 0.4, 49.8, 50.7), (110, 0.6, 70.5, 71.4)],
)
def test_real_counts_of_the_smaller_network(depth, rate, macs, parameters):
    """By the floor rule with dense stem and classifier, without channels of ones."""
    model = classifier(depth, rate)
    dense, small = count(model, (32, 32)), count(extract(model, 'drop').model, (32, 32))
    assert 100 * (1 - small.macs / dense.macs) == pytest.approx(macs, abs=0.05)
    assert 100 * (1 - small.parameters / dense.parameters) == pytest.approx(parameters, abs=0.05)


@pytest.mark.parametrize(
    'depth, rate, dense, fewer, inside',
    [
        (34, 0.3, (3.664, 21.798), (39.2, 39.7), (28.6, 28.8)),
        (50, 0.4, (4.089, 25.557), (50.7, 47.6), (45.9, 42.9)),
    ],
)
def test_real_counts_of_imagenet_networks(depth, rate, dense, fewer, inside):
    """Of the layers that the hook chooses; with and without dense ends of blocks."""
    config = copy.deepcopy(CLASSIFIER)
    config['backbone'] = dict(type='mmpretrain.ResNet', depth=depth)
    config['head'].update(num_classes=1000, in_channels=512 if depth < 50 else 2048)
    model, size = build(config), (224, 224)
    before = count(model, size)
    assert (before.macs / 1e9, before.parameters / 1e6) == pytest.approx(dense, abs=5e-4)
    finalize(model, rate, decay_bn=True)  # no constants, so no channels of ones
    for mode, wanted in (('drop', fewer), ('interior', inside)):
        after = count(extract(model, mode).model, size)
        found = [100 * (1 - new / old) for new, old in zip(after, before, strict=True)]
        assert found == pytest.approx(wanted, abs=0.05), mode


def test_real_counts_of_other_modes():
    """An input channel of ones in every block costs R56 1.45 M; dense ends of blocks far more."""
    model = classifier(56, 0.4)
    exact, interior = (count(extract(model, m).model, (32, 32)) for m in ('exact', 'interior'))
    fewer, dense = count(extract(model, 'drop').model, (32, 32)), count(model, (32, 32))
    assert (exact.macs / 1e6, fewer.macs / 1e6) == pytest.approx((64.39, 62.94), abs=0.005)
    # ones cost 3x3 weights of every filter of 27 second convolutions, at the end of blocks dense
    ones = sum(9 * 9 * width * pixels for width, pixels in ((16, 1024), (32, 256), (64, 64)))
    assert 100 * (1 - (interior.macs - ones) / dense.macs) == pytest.approx(37.9, abs=0.05)


def test_passes():
    assert pass_of(build(CLASSIFIER), (32, 32)) is whole
    assert pass_of(bare('cifar_basic'), (32, 32)) is whole
    assert pass_of(build(DETECTOR), (64, 64)) is whole
    two_stages = build(CLASSIFIER)
    two_stages.head = None  # stands for a detector that asks for boxes
    two_stages.extract_feat = None
    assert pass_of(two_stages, (32, 32)) is backbone


def test_the_dense_network_has_all_filters_and_the_others_weights():
    masked = bare('cls_basic')
    kept = prune(masked)
    dense = dense_again(masked)
    for name, places in kept.items():
        before, after = (net.get_submodule(name).weight for net in (masked, dense))
        assert torch.equal(before[places], after[places])
        assert after.flatten(1).any(1).all() and not before.flatten(1).any(1).all()


def test_latencies_are_medians_of_turns(monkeypatch):
    turns = []

    def run(model: nn.Module, _: Tensor) -> None:
        turns.append(model)
        now[0] += 1.0 if model is models['slow'] else 0.25

    now = [0.0]
    models = dict(slow=bare('cifar_basic'), fast=bare('cifar_basic'))
    monkeypatch.setattr('kdmm.pruning.report.pass_of', lambda *_: run)
    monkeypatch.setattr('time.perf_counter', lambda: now[0])
    assert latencies(models, (32, 32), repeats=3, warmup=2) == dict(slow=1000.0, fast=250.0)
    assert turns == [models['slow'], models['fast']] * 5
