"""One and two gloo ranks on the same global batches."""

import bank_world
import pytest
import torch

from tests.ranks import on_ranks

CLOSE = dict(rtol=1e-9, atol=1e-11)


@pytest.fixture(scope='module')
def one():
    return bank_world.everything()


@pytest.fixture(scope='module')
def ranks():
    return on_ranks(bank_world.everything, 2)


@pytest.mark.parametrize('name', ['double', 'single', 'half'])
def test_banks_and_noise_are_those_of_one_process_to_the_bit(one, ranks, name):
    assert [state['step'].item() for state in one[name]] == [1, 3]
    for result in ranks:
        for expected, state in zip(one[name], result[name], strict=True):
            for key, value in expected.items():
                assert torch.equal(state[key], value), key


def test_training(one, ranks):
    """Values, gradients (by the weights they led to) and banks; the ranks' are equal to the bit."""
    first, second = (result['training'] for result in ranks)
    torch.testing.assert_close(first, one['training'], **CLOSE)
    for key, value in first['state'].items():
        assert torch.equal(second['state'][key], value), key
    assert one['training']['state']['loss.bank.step'] == 3
    assert one['training']['values'].min() > 1
