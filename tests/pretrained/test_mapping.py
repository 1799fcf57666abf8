"""Key maps: every weight has its place, or an error lists those that do not."""

import pytest
import torch
from torch import nn

from kdmm.errors import ConfigError
from kdmm.pretrained.families import Family
from kdmm.pretrained.mapping import check_values, map_keys, untrained

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
    with pytest.raises(ConfigError, match='it: 3 missing: bn.weight, bn.running_mean, bn.num_b'):
        map_keys({'x': A}, {'x': A} | NORM | COUNTER, ROW, 'it')


def test_everything_else_is_listed():
    source = {'x': A, 'z': A, 'body.fc.weight': A}
    with pytest.raises(ConfigError) as info:
        map_keys(source, {'x': B, 'y': B}, ROW, 'it')
    assert str(info.value) == (
        'it: 1 missing: y; 2 left over: z, body.fc.weight; 1 of another shape: x (2,) for (3, 1)'
    )


def test_numbers_of_another_type_are_not_taken():
    target = {'x': A, 'n': torch.tensor(3)}
    assert map_keys({'x': A.half(), 'n': torch.tensor(3).int()}, target, ROW, 'it').pairs
    with pytest.raises(ConfigError) as info:
        map_keys({'x': A.long(), 'n': torch.tensor(3.0)}, target, ROW, 'it')
    assert str(info.value) == (
        'it: 2 of another type: x torch.int64 for torch.float32, n torch.float32 for torch.int64'
    )


def test_what_is_only_left_over_can_be_dropped():
    source = {'x': A, 'head_q.0.bias': A, 'head_q.1.bias': A, 'prototypes': A}
    with pytest.raises(ConfigError, match=r'3 left over: .*; try --drop head_q prototypes$'):
        map_keys(source, {'x': A}, ROW, 'it', drop='try --drop')
    with pytest.raises(ConfigError, match='left over: head_q.0.bias, head_q.1.bias, prototypes$'):
        map_keys(source, {'x': A, 'y': A}, ROW, 'it', drop='try --drop')


def test_missing_outputs_are_called_so():
    with pytest.raises(ConfigError, match='they belong to outputs that the source does not have'):
        map_keys({'x': A}, {'x': A, 'extra.x': A}, ROW, 'it')
    with pytest.raises(ConfigError) as info:
        map_keys({'x': A}, {'x': A, 'extra.x': A, 'y': A}, ROW, 'it')
    assert 'outputs' not in str(info.value)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -1.0])
def test_weights_that_no_training_leaves(value):
    check_values(NORMS)
    broken = NORMS['bn1.running_var'].clone()
    broken[0] = value
    with pytest.raises(ConfigError, match='1 weights with NaN.*: bn1.running_var'):
        check_values(NORMS | {'bn1.running_var': broken})
    negative = {'bn1.weight': -torch.ones(1), 'bn1.running_var': torch.zeros(1)}
    check_values(negative)


def test_statistics_as_they_are_initialised():
    assert untrained(NORMS) and not untrained({})
    assert not untrained(NORMS | {'bn1.running_mean': torch.tensor([0, 0, 0.1, 0])})
