import pytest
import torch
import uneven_world

from kdmm.distillers.refusals import REMEDIES
from tests.ranks import on_ranks

CLOSE = dict(rtol=1e-5, atol=1e-7)


@pytest.fixture(scope='module')
def one():
    return uneven_world.everything()


@pytest.fixture(scope='module')
def ranks():
    return on_ranks(uneven_world.everything, 2)


@pytest.mark.parametrize('what', ['relations', 'contrasts'])
def test_values_and_gradients_are_those_of_one_rank_with_all_images(one, ranks, what):
    for rank in ranks:
        torch.testing.assert_close(rank[what], one[what], **CLOSE)


def test_memories_are_equal_on_all_ranks_and_hold_what_one_rank_would(one, ranks):
    for name, state in one['memories'].items():
        for key, value in state.items():
            first, second = (rank['memories'][name][key] for rank in ranks)
            assert torch.equal(first, second), (name, key)
            torch.testing.assert_close(first, value, **CLOSE)


def test_maps_of_different_sizes_are_one_message_on_every_rank(ranks):
    for rank in ranks:
        assert '[2, 3], [2, 4]' in rank['refusal']
    assert "scope='local'" in REMEDIES['ranks']  # what a term adds


def test_what_loaders_promise(one, ranks):
    assert not any(one['answers'].values())
    for rank in ranks:
        assert {key for key, uneven in rank['answers'].items() if uneven} == {
            'odd', 'own', 'single',
        }  # fmt: skip
