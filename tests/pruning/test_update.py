"""One update of soft filter pruning."""

import copy

import pytest
import torch
from torch import nn

from kdmm.pruning import Prunable, finalize, lowest, prune, select_prunable, zero_count
from kdmm.pruning.selection import in_copy


def layer(filters: int = 64, norm: bool = False) -> list[Prunable]:
    torch.manual_seed(0)
    behind = nn.BatchNorm2d(filters) if norm else None
    if behind is not None:
        nn.init.uniform_(behind.weight), nn.init.uniform_(behind.bias)
    return [Prunable('conv', nn.Conv2d(5, filters, 3), behind)]


@pytest.mark.parametrize('norm', [1, 2])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_the_lowest_filters_are_scaled(norm, memory):
    layers = layer()
    conv = layers[0].conv.to(memory_format=memory)
    before = conv.weight.detach().clone()
    sizes = (before.double().abs() ** norm).sum((1, 2, 3))
    pruned = torch.zeros(64, dtype=bool).index_fill(0, sizes.argsort()[:19], True)
    assert prune(layers, 0.3, 0.37, norm) == 0
    assert torch.equal(conv.weight[~pruned], before[~pruned])
    assert torch.equal(conv.weight[pruned], before[pruned] * 0.37)
    assert conv.weight.stride() == before.stride()


def test_equal_norms_are_ranked_by_place():
    weight = torch.ones(10, 2, 3, 3)
    weight[[2, 7]] = -0.5
    assert lowest(weight, 0.5).tolist() == [2, 7, 0, 1, 3]


def test_norms_are_taken_in_float32():
    """In half precision the squares of small weights would all be zero."""
    weight = torch.linspace(2e-4, 1e-4, 8).view(8, 1, 1, 1).half()
    assert lowest(weight, 0.25).tolist() == [7, 6]


def test_factor_one_changes_no_bit_and_zero_gives_zeros():
    layers = layer()
    before = layers[0].conv.weight.detach().clone()
    prune(layers, 0.3, 1.0)
    assert torch.equal(layers[0].conv.weight, before)
    assert prune(layers, 0.3, 0.0) == zero_count(layers) == 19
    assert prune(layers, 0.0, 0.0) == 19


def test_only_the_weights_change_unless_the_norm_is_asked_for():
    layers = layer(norm=True)
    _, conv, norm = layers[0]
    conv.weight.grad = torch.ones_like(conv.weight)
    before = copy.deepcopy((conv.bias.data, norm.state_dict()))
    prune(layers, 0.3, 0.5)
    assert torch.equal(conv.bias, before[0]) and bool((conv.weight.grad == 1).all())
    assert all(torch.equal(norm.state_dict()[key], value) for key, value in before[1].items())
    places = lowest(conv.weight, 0.3)
    prune(layers, 0.3, 0.5, decay_bn=True)
    factors = torch.ones(64).index_fill(0, places, 0.5)
    for key in ('weight', 'bias'):
        assert torch.equal(getattr(norm, key), before[1][key] * factors)
    assert torch.equal(norm.running_mean, before[1]['running_mean'])


@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_single_weights(memory):
    layers = layer()
    conv = layers[0].conv.to(memory_format=memory)
    before = conv.weight.detach().clone()
    prune(layers, 0.3, 0.0, granularity='weight')
    count = int(before.numel() * 0.3)
    threshold = before.abs().flatten().sort().values[count]
    assert torch.equal(conv.weight == 0, before.abs() < threshold)
    assert int((conv.weight == 0).sum()) == count and zero_count(layers) == 0


def test_same_filters_of_a_copy():
    """Of the model's ranking, not the copy's own."""
    model = nn.Sequential(nn.Conv2d(5, 64, 3), nn.BatchNorm2d(64))
    other = copy.deepcopy(model)
    nn.init.normal_(other[0].weight)
    other.requires_grad_(False)
    layers = select_prunable(model)
    prune(layers, 0.3, 0.0, decay_bn=True, also=[in_copy(layers, model, other)])
    zero = [~part[0].weight.flatten(1).any(1) for part in (model, other)]
    assert int(zero[0].sum()) == 19 and torch.equal(*zero)
    assert torch.equal(other[1].weight == 0, zero[0]) and bool((other[1].bias[zero[0]] == 0).all())


def test_a_pruned_filter_comes_back_and_is_ranked_anew():
    """Momentum and gradients move it; the next update may prune another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    layers = select_prunable(model)

    def step():
        optimizer.zero_grad()
        (model(torch.randn(8, 3, 5, 5)) * torch.randn(8, 4, 3, 3)).square().sum().backward()
        optimizer.step()

    step()
    places = lowest(model[0].weight, 0.25)
    prune(layers, 0.25, 0.0)
    assert not model[0].weight[places].any()
    step()
    assert model[0].weight[places].any()
    model[0].weight.data[places] += 10
    prune(layers, 0.25, 0.0)
    assert model[0].weight[places].any() and zero_count(layers) == 1


def test_finalize_sets_the_lowest_to_zero():
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.Conv2d(10, 10, 3))
    places = lowest(model[0].weight, 0.3)
    assert finalize(model, 0.3) == 6
    assert not model[0].weight[places].any() and bool((model[1].weight == 1).all())
    assert finalize(model, 0.5, exclude=['^0']) == 5
