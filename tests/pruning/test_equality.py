"""Comparison of two networks, alone and inside the models of the libraries."""

import copy

import pytest
import torch

from kdmm.pruning import compare, extract
from kdmm.pruning.equality import TOLERANCE, second_size
from tests.errors import refused
from tests.pruning.nets import CLASSIFIER, DETECTOR, ESTIMATOR, SEGMENTOR, bare, build, prune

SIZES = ((64, 64), (49, 41))


@pytest.mark.parametrize(
    'config', [CLASSIFIER, SEGMENTOR, DETECTOR, ESTIMATOR], ids=lambda config: config['type']
)
def test_inside_the_models_of_the_libraries(config):
    masked = build(config)
    prune(masked.backbone)
    for mode in ('exact', 'interior'):
        found = compare(masked, extract(masked, mode).model, SIZES)
        assert found.features < TOLERANCE and found.outputs is not None
        assert found.outputs < TOLERANCE and found.sizes == SIZES
    found = compare(masked, extract(masked, 'drop').model, SIZES)
    assert found.features > 1e-3 and found.outputs > 1e-5 and found.largest > 1e-3


def test_what_differs_at_one_size_is_found():
    """A border of one pixel, which only the second image has."""
    one, other = bare('cifar_basic'), bare('cifar_basic')
    other.load_state_dict(one.state_dict())
    forward = other.backbone.forward

    def changed(x):
        found = forward(x)
        return tuple(y + 1 if x.shape[2] == 49 else y for y in found)

    other.backbone.forward = changed
    assert compare(one, other, SIZES[:1]).largest == 0
    assert compare(one, other, SIZES).features > 0.1


def test_models_stay_in_their_mode():
    one = bare('cifar_basic')
    other = copy.deepcopy(one).train()
    statistics = other.backbone.stem[1].running_mean.clone()
    assert compare(one, other, SIZES).largest == 0
    assert other.training and not one.training
    assert torch.equal(statistics, other.backbone.stem[1].running_mean)


def test_outputs_that_are_not_finite():
    model = bare('cifar_basic')
    model.backbone.stem[1].bias.data[0] = float('nan')
    with refused(key='checkpoint', problem='not finite'):
        compare(model, model, SIZES)


@pytest.mark.parametrize(
    'size, second', [((32, 32), (33, 41)), ((224, 224), (169, 121)), ((512, 1024), (385, 521))]
)
def test_the_second_size_is_odd(size, second, monkeypatch):
    monkeypatch.setattr('kdmm.pruning.equality.images_for', lambda *_: torch.zeros(1, 3, 8, 8))
    assert second_size(bare('cifar_basic'), size) == second


def test_the_second_size_of_a_network_that_asks_for_multiples_of_32():
    assert second_size(bare('pose_hrnet'), (64, 64)) == (96, 64)
