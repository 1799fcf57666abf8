"""Measured weights and shares of the gradient: one process and two on the same four images."""

import balance_world
import pytest
import torch

from tests.ranks import on_ranks


@pytest.fixture(scope='module')
def one():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield balance_world.steps()
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def two():
    return on_ranks(balance_world.steps, 2)


def test_ranks_have_the_same_weights_to_the_bit(two):
    first, second = two
    for mine, other in zip(first['steps'], second['steps'], strict=True):
        assert set(mine) == set(other)
        for key, value in mine.items():
            assert torch.equal(value, other[key]), key


def test_two_processes_are_one_with_the_whole_batch(one, two):
    """Also with a step that waits for the next one, and a term that has gone idle."""
    for result in two:
        for expected, found in zip(one['steps'], result['steps'], strict=True):
            assert set(expected) == set(found)
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-7, msg=key)
        for key, value in one['state'].items():
            if 'queue' not in key:  # counts images of a process
                torch.testing.assert_close(result['state'][key], value, rtol=1e-4, atol=1e-6)


def test_the_steps_are_not_trivial(one):
    steps = one['steps']
    assert not any(key.startswith('share') for key in steps[0])
    for before, after in zip(steps[:2], steps[1:3], strict=True):
        assert before['weight kd '] != after['weight kd ']
    assert steps[2]['weight kd '] == steps[4]['weight kd ']  # frozen after three
    assert steps[1]['share gone_one'] > 0.01 and steps[2]['share gone_one'] == 0
    assert steps[1]['weight parts two'] == 0.5
    assert all(steps[1][key] > 0 for key in steps[1] if key.startswith('share'))
