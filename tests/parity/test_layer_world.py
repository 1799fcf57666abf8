"""L-MCL's losses on one and two gloo ranks, on the same global batches."""

import layer_world
import pytest
import torch

from tests.ranks import on_ranks

CLOSE = dict(rtol=1e-9, atol=1e-11)


@pytest.fixture(scope='module')
def one():
    return layer_world.everything()


@pytest.fixture(scope='module')
def ranks():
    return on_ranks(layer_world.everything, 2)


@pytest.mark.parametrize('name', layer_world.LOSSES)
def test_training(one, ranks, name):
    """Values, weights and banks, the matching and its mean; the ranks' are equal to the bit."""
    first, second = (result[name] for result in ranks)
    torch.testing.assert_close(first, one[name], **CLOSE)
    for key, value in first['state'].items():
        assert torch.equal(second['state'][key], value), key
    assert first['state']['loss.matched_steps'] == 3
    assert one[name]['values'].min() > 1


def test_the_matching_is_trained(one):
    start = layer_world._Cohort().state_dict()
    for name in ('batch', 'bank'):
        key = 'loss.matching.projections.0.weight'
        assert (one[name]['state'][key] - start[key]).abs().max() > 1e-4


def test_one_process_alone(one, ranks):
    """It compares its own images: another loss, yet all ranks have one state."""
    first, second = (result['process'] for result in ranks)
    assert (first['values'] - one['process']['values']).abs().min() > 0.1
    for key, value in first['state'].items():
        assert torch.equal(second['state'][key], value), key
    torch.testing.assert_close(one['process'], one['batch'], **CLOSE)


def test_derivatives_of_a_gather(one, ranks):
    for result in ranks:
        torch.testing.assert_close(result['curvature'], one['curvature'], **CLOSE)
