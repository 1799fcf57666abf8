import pytest
import torch

from kdmm.distillers import Progress
from kdmm.distillers.loss_weights import LossWeights, is_switched_off
from tests.errors import refused

RAMP = dict(type='Linear', start=0.0, stop=1.0, end=10)


@pytest.mark.parametrize('weight', [0, 0.0, -0.0, dict(a=0, b=0.0)])
def test_the_number_zero_is_off(weight):
    assert is_switched_off(weight)


@pytest.mark.parametrize(
    'weight', [1, dict(a=0, b=1), dict(a=0, b=RAMP), RAMP, 'auto:0.1', False, {}, '0',
               dict(type='Auto', share=0)],
)  # fmt: skip
def test_anything_else_is_not(weight):
    assert not is_switched_off(weight)


def test_one_weight_holds_for_every_part():
    weights = LossWeights(2.0, 'w')
    assert weights.names(['']) == ('',)
    assert weights.names(['a', 'b']) == ('a', 'b')
    assert weights.now('') == weights.now('b') == 2.0


def test_weights_by_part_are_looked_up():
    weights = LossWeights(dict(a=1.0, b=RAMP), 'w')
    assert weights.names(['b', 'c', 'a']) == ('b', 'a')
    weights.set_progress(Progress(5))
    assert (weights.now('a'), weights.now('b')) == (1.0, 0.5)
    with refused(key='w', problem="unknown key 'b'"):
        weights.names(['a'])
    with refused(key='w', problem='no parts'):
        weights.names([''])


def test_zero_now():
    weights = LossWeights(dict(a=0.0, b=RAMP), 'w')
    assert weights.is_zero()
    weights.set_progress(Progress(1))
    assert not weights.is_zero()
    assert not LossWeights(dict(a=0.0, b='auto:0.1'), 'w').is_zero()


def test_a_measured_weight_of_the_whole_serves_its_parts():
    weights = LossWeights('auto:0.1', 'w')
    assert weights.auto('a') is weights.auto('') is weights.measuring()['']
    assert isinstance(weights.now('a'), torch.Tensor)
    assert weights.describe() == 'auto:0.1'


@pytest.mark.parametrize(
    'weight, key, reached',
    [
        (-1, 'w', ''),
        (dict(a=1.0, b=-0.5), 'w.b', ''),
        (float('nan'), 'w', ''),
        (float('inf'), 'w', ''),
        (dict(RAMP, start=-1.0), 'w', '(it reaches -1)'),
        (dict(RAMP, type='Cosine', stop=-2), 'w', '(it reaches -2)'),
        (dict(a=0.0, b=dict(RAMP, stop=-1e-9)), 'w.b', '(it reaches -1e-09)'),
        (dict(type='StopAt', value=-3.0, end=10), 'w', '(it reaches -3)'),
        (dict(type='Constant', value=-3.0), 'w', '(it reaches -3)'),
    ],
)
def test_what_would_pull_the_other_way_is_refused(weight, key, reached):
    got = weight['b'] if key == 'w.b' else weight
    told = dict(got=got, expected='0 or more', fix='0 leaves the term out')
    with refused(key=key, problem=('a negative weight', reached), **told):
        LossWeights(weight, 'w')


def test_a_schedule_of_no_number():
    with refused(key='w', problem='could not convert'):
        LossWeights(dict(RAMP, start='a'), 'w')


def test_weights_may_end_at_nothing():
    for weight in (0, -0.0, dict(RAMP, start=2.0, stop=0.0), dict(type='StopAt', value=1, end=3)):
        assert LossWeights(weight, 'w').now('') >= 0


@pytest.mark.parametrize('part', ['whole', 'values', 'keys', 'pixel'])
def test_parts_may_have_any_name(part):
    weights = LossWeights({part: 'auto:0.1'}, 'w')
    assert set(weights.measuring()) == {part} and weights.auto('') is None
