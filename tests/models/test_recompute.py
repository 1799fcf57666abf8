"""Activation checkpointing changes nothing but the memory."""

import copy

import pytest
import torch
from torch import nn

from kdmm.models import recomputed
from kdmm.models.recompute import uncounted
from tests.models.backbones.networks import FAMILIES, backbone


def block() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)]
    return nn.Sequential(*layers, nn.BatchNorm2d(2, momentum=None))


def everything(module, run):
    """Output, gradients and buffers after one step of ``run``."""
    x = torch.arange(2 * 3 * 64.0).reshape(2, 3, 8, 8).sin().requires_grad_()
    result = run(module, x)
    (result**2).sum().backward()
    return [result, x.grad, *(p.grad for p in module.parameters()), *module.buffers()]


@pytest.mark.parametrize('training', [True, False])
def test_bit_equal_to_the_plain_call(training):
    plain = block().train(training)
    other = copy.deepcopy(plain)
    expected = everything(plain, lambda module, x: module(x))
    found = everything(other, recomputed)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert int(other[1].num_batches_tracked) == int(training)


def test_counts_again_afterwards():
    module = block()
    with uncounted(module):
        module(torch.rand(2, 3, 8, 8))
    assert module[1].num_batches_tracked == 0 and not module[1].running_mean.any()
    module(torch.rand(2, 3, 8, 8))
    assert module[1].num_batches_tracked == 1


def test_layers_that_never_count_are_left_alone():
    module = nn.BatchNorm2d(3, track_running_stats=False)
    with uncounted(module):
        assert module.momentum == 0.1


@pytest.mark.parametrize('name', FAMILIES)
def test_with_cp_of_a_backbone(name):
    plain = backbone(name)
    other = backbone(name, with_cp=True)
    other.load_state_dict(plain.state_dict())

    def last(network, x):
        return network(nn.functional.interpolate(x, 16))[-1]

    expected, found = everything(plain, last), everything(other, last)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    kept: list[int] = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    sizes = []
    for network in (plain, other):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            network(torch.rand(2, 3, 16, 16, requires_grad=True))
        sizes.append(sum(kept))
    assert sizes[1] < sizes[0] / 2
