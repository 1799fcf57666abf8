"""Three steps on one process and on two gloo ranks."""

import adversarial_world
import pytest
import torch

from tests.ranks import on_ranks


@pytest.fixture(scope='module')
def one():
    return adversarial_world.everything()


@pytest.fixture(scope='module')
def ranks():
    return on_ranks(adversarial_world.everything, 2)


@pytest.mark.parametrize('name', ['none', 'batch_norm', 'rank_local_norm'])
def test_ranks_are_identical(ranks, name):
    first, second = (rank[name]['state'] for rank in ranks)
    assert first['step.0'] == 3
    for key, value in first.items():
        assert torch.equal(second[key], value), key
    assert all(rank[name]['frozen'] for rank in ranks)


@pytest.mark.parametrize('name', ['none', 'batch_norm'])
def test_ranks_do_what_one_process_does(one, ranks, name):
    """Without a norm, and with one where the ranks' batches have the same statistics."""
    for key, value in one[name]['state'].items():
        torch.testing.assert_close(ranks[0][name]['state'][key], value, rtol=1e-7, atol=1e-10)


def test_unreduced_gradients_would_show(one, ranks):
    first, second = (rank['unreduced']['state']['exp_avg.1'] for rank in ranks)
    assert (first - second).norm() > 0.01 * first.norm()
