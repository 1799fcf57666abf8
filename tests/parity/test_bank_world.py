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


@pytest.mark.parametrize('name', [*bank_world.LOSSES, *bank_world.CRD])
def test_training(one, ranks, name):
    """Values, gradients (by the weights they led to) and banks; the ranks' are equal to the bit."""
    first, second = (result[name] for result in ranks)
    torch.testing.assert_close(first, one[name], **CLOSE)
    for key, value in first['state'].items():
        assert torch.equal(second['state'][key], value), key
    assert one[name]['state']['loss.bank.step'] == 3
    assert one[name]['values'].min() > 1
    if name in bank_world.CRD:
        first_z = bank_world.CRD[name].get('z_mode') != 'batch'
        assert first['state']['loss.z_known'] == first_z
        assert first['state']['loss.log_z'].any() == first_z
