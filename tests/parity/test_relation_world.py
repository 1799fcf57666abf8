"""One and two gloo ranks on the same six images."""

import pytest
import relation_world
import torch

from tests.ranks import on_ranks

CLOSE = dict(rtol=1e-10, atol=1e-12)


@pytest.fixture(scope='module')
def one():
    return relation_world.everything()


@pytest.fixture(scope='module')
def ranks():
    return on_ranks(relation_world.everything, 2)


@pytest.mark.parametrize('name', relation_world.LOSSES)
def test_the_global_scope_is_one_rank_with_the_joined_batch(one, ranks, name):
    expected = one[f'{name}, global']
    assert expected['value'] > 1e-3 and expected['grad'].norm() > 1e-3
    torch.testing.assert_close(one[f'{name}, local'], expected, **CLOSE)  # there is one rank
    for result in ranks:
        found = result[f'{name}, global']
        for key in ('value', 'grad'):
            torch.testing.assert_close(found[key], expected[key], **CLOSE)
        # each rank has computed the whole loss
        torch.testing.assert_close(found['each'], expected['value'].expand(2), **CLOSE)


@pytest.mark.parametrize('name', relation_world.LOSSES)
def test_the_local_scope_is_each_ranks_own(one, ranks, name):
    make, channels = relation_world.LOSSES[name]
    student, teacher = relation_world.features(channels)
    own = [relation_world.total(make('local')(student[r::2], teacher[r::2])) for r in (0, 1)]
    for result in ranks:
        found = result[f'{name}, local']
        torch.testing.assert_close(found['each'], torch.stack(own), **CLOSE)
        assert abs(found['value'] / one[f'{name}, global']['value'] - 1) > 1e-3


@pytest.mark.parametrize('name', ['vid', 'cc'])
def test_parameters_of_losses_are_equal_on_the_ranks_after_three_steps(one, ranks, name):
    for key, value in ranks[0][name].items():
        assert torch.equal(ranks[1][name][key], value), key
    if name == 'vid':  # a mean over images; CC's neighbours are those of a rank
        torch.testing.assert_close(ranks[0][name], one[name], **CLOSE)
