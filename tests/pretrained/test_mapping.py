"""Key maps: every weight has its place, or an error lists those that do not."""

import pytest
import torch
from torch import nn

from kdmm.pretrained.families import Family
from kdmm.pretrained.mapping import map_keys, untrained
from tests.errors import refused

ROW = Family(surplus=r'extra\.')
A, B = torch.zeros(2), torch.zeros(3, 1)
NORM = {f'bn.{name}': torch.ones(4) for name in ('weight', 'running_mean')}
COUNTER = {'bn.num_batches_tracked': torch.tensor(5)}
NORMS = {f'bn1.{key}': value for key, value in nn.BatchNorm2d(4).state_dict().items()}


def test_all_fit():
    found = map_keys({'y': B, 'x': A}, {'x': A, 'y': B}, ROW, 'it')
    assert list(found.pairs.items()) == [('x', 'x'), ('y', 'y')]  # in the target's order
    assert found.filled == found.heads == found.surplus == []


def test_names_are_translated_both_ways():
    table = {'old': 'shared', 'new': 'shared'}
    family = Family(names=lambda keys: {key: table.get(key, key) for key in keys})
    found = map_keys({'old': A, 'y': B}, {'new': A, 'y': B}, family, 'it')
    assert found.pairs == {'new': 'old', 'y': 'y'}
    assert found.complete({'old': A + 1, 'y': B})['new'].sum() == 2


def test_counters_heads_and_surplus_may_differ():
    source = NORM | {'fc.weight': A, 'extra.x': B}
    found = map_keys(source, NORM | COUNTER, ROW, 'it')
    assert found.filled == ['bn.num_batches_tracked'] and found.heads == ['fc.weight']
    assert found.surplus == ['extra.x'] and set(found.pairs) == set(NORM)
    filled = found.complete(source)['bn.num_batches_tracked']
    assert filled == 0 and filled.dtype == torch.long and filled.shape == ()


def test_a_counter_without_its_norm_is_missing():
    with refused(problem='it: 3 missing: bn.weight, bn.running_mean, bn.num_b'):
        map_keys({'x': A}, {'x': A} | NORM | COUNTER, ROW, 'it')


def test_everything_else_is_listed():
    source = {'x': A, 'z': A, 'body.fc.weight': A}
    told = 'it: 1 missing: y; 2 unexpected: z, body.fc.weight; 1 wrong shape: x (2,) for (3, 1)'
    with refused(problem=told):
        map_keys(source, {'x': B, 'y': B}, ROW, 'it')


def test_a_name_that_means_something_else_in_the_target_is_unexpected():
    """The source's y has no place, and the target's y is filled by the source's x."""
    family = Family(
        names=lambda keys: dict(x='first', y='second') if 'x' in keys else dict(y='first')
    )
    with refused(problem='it: 1 unexpected: y'):
        map_keys({'x': A, 'y': A}, {'y': A}, family, 'it')


def test_numbers_of_another_type_are_not_taken():
    target = {'x': A, 'n': torch.tensor(3)}
    assert map_keys({'x': A.half(), 'n': torch.tensor(3).int()}, target, ROW, 'it').pairs
    told = 'it: 2 wrong dtype: x torch.int64 for torch.float32, n torch.float32 for torch.int64'
    with refused(problem=told):
        map_keys({'x': A.long(), 'n': torch.tensor(3.0)}, target, ROW, 'it')


def test_what_is_only_left_over_can_be_dropped():
    source = {'x': A, 'head_q.0.bias': A, 'head_q.1.bias': A, 'prototypes': A}
    told = '3 unexpected: head_q.0.bias, head_q.1.bias, prototypes'
    with refused(problem=told, fix='Try --drop head_q prototypes'):
        map_keys(source, {'x': A}, ROW, 'it', drop='Try --drop')
    with refused(problem=told) as caught:
        map_keys(source, {'x': A, 'y': A}, ROW, 'it', drop='Try --drop')
    assert not caught.value.fix


def test_missing_outputs_are_called_so():
    with refused(problem='they belong to outputs that the source does not have'):
        map_keys({'x': A}, {'x': A, 'extra.x': A}, ROW, 'it')
    with refused(problem='2 missing') as info:
        map_keys({'x': A}, {'x': A, 'extra.x': A, 'y': A}, ROW, 'it')
    assert 'outputs' not in str(info.value)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -1.0])
def test_weights_that_no_training_leaves(value):
    map_keys(NORMS, NORMS, ROW, 'it')
    broken = NORMS['bn1.running_var'].clone()
    broken[0] = value
    kind = 'negative variance' if value == -1 else 'not finite'
    with refused(problem=f'it: 1 {kind}: bn1.running_var (1 of 4 values)'):
        map_keys(NORMS | {'bn1.running_var': broken}, NORMS, ROW, 'it')
    negative = {'bn1.weight': -torch.ones(1), 'bn1.running_var': torch.zeros(1)}
    map_keys(negative, negative, ROW, 'it')


def test_statistics_as_they_are_initialised():
    assert untrained(NORMS) and not untrained({})
    assert not untrained(NORMS | {'bn1.running_mean': torch.tensor([0, 0, 0.1, 0])})
