"""Every network of the papers against the authors' code (docs/methods/cifar_networks.md)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdmm.models.backbones import CIFAR_PRESETS, cifar_backbone
from tests.errors import refused
from tests.models.backbones.networks import (
    COUNTS,
    NAIVE,
    ORACLES,
    Classifier,
    backbone,
    classifier,
    fill,
    fix,
)


def test_every_preset_has_figures():
    assert list(CIFAR_PRESETS) == list(COUNTS)
    assert CIFAR_PRESETS.keys() == ORACLES.keys() | NAIVE.keys()


@pytest.mark.parametrize('name', COUNTS)
def test_counts(name, monkeypatch):
    # no multiply-adds are counted for it, and without values it takes most of the time
    monkeypatch.setattr(torch.nn.functional, 'batch_norm', lambda x, *_args, **_kwargs: x)
    network = classifier(name).to('meta')
    with FlopCounterMode(display=False) as flops:
        network(torch.empty(1, 3, 32, 32, device='meta'))
    counted = (
        sum(p.numel() for p in network.parameters()),
        flops.get_total_flops() // 2,
        len(network.state_dict()),
    )
    assert counted == COUNTS[name][:3]


def test_fixture_starts_as_published():
    start = torch.tensor(
        [-1.0795288057, 1.4106262394, 1.2738318335, -1.4899120234], dtype=torch.float64
    )
    torch.testing.assert_close(fix([4], 0), start, rtol=0, atol=1e-10)
    start = torch.tensor([-1.0751416590, -1.2649518257, -0.6176098284], dtype=torch.float64)
    torch.testing.assert_close(fix([3], 1), start, rtol=0, atol=1e-10)


@pytest.mark.parametrize('name, expected', [('densenet40_12', 1_019_722), ('vgg16', 14_728_266)])
def test_counts_with_ten_classes(name, expected):
    """Ninety rows of the Linear less: 449 each of the one, 513 of the other."""
    network = Classifier(backbone(name), COUNTS[name].embedding, 10)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize('name', ORACLES)
def test_forward_oracle(name):
    network = fill(classifier(name))
    with torch.no_grad():
        logits = network(fix((4, 3, 32, 32), 0))
    found = torch.stack([logits.sum(), logits.abs().sum(), logits[0, 0], logits[-1, -1]])
    expected = torch.tensor(ORACLES[name], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', NAIVE)
def test_forward_of_a_plain_form(name):
    images = fix((4, 3, 32, 32), 0)
    with torch.no_grad():
        found, expected = fill(classifier(name))(images), NAIVE[name](images)
    assert found.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_unknown_name_gives_the_nearest():
    with refused(key='name', got='resnet-20', problem=('nearest: ', 'resnet20')):
        cifar_backbone('resnet-20')


def test_options_do_not_change_the_preset():
    assert cifar_backbone('vgg8', in_channels=1)['in_channels'] == 1
    assert 'in_channels' not in CIFAR_PRESETS['vgg8']
