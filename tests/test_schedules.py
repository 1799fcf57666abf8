import math

import pytest

from kdmm.distillers import Progress, build_schedule
from kdmm.schedules import is_schedule
from tests.errors import refused


def at(config, iteration=0, epoch=0.0):
    return build_schedule(config, 'kd.losses.kd.weight')(Progress(iteration, epoch))


@pytest.mark.parametrize('value', [2, 0.5, dict(type='Constant', value=0.5)])
def test_a_constant(value):
    expected = value['value'] if isinstance(value, dict) else value
    assert at(value, 0) == at(value, 10**6) == expected


@pytest.mark.parametrize('kind', ['Linear', 'Cosine', 'kdmm.Linear'])
def test_a_ramp_is_flat_outside_and_exact_at_its_ends(kind):
    ramp = dict(type=kind, start=1.0, stop=3.0, begin=10, end=20)
    assert [at(ramp, i) for i in (0, 10, 15, 20, 99)] == pytest.approx([1, 1, 2, 3, 3])


def test_the_shapes_differ_between_the_ends():
    ramp = dict(start=1.0, stop=0.0, end=100)
    assert at(dict(type='Linear', **ramp), 25) == pytest.approx(0.75)
    expected = 1 - 0.5 * (1 - math.cos(math.pi / 4))
    assert at(dict(type='Cosine', **ramp), 25) == pytest.approx(expected)


def test_gaussian_ramp_up():
    """exp(-5 (1 - e / 80)^2) at epochs 0, 8, 40, 80 and 200 (OKDDip, arXiv 1912.00350)."""
    ramp = dict(type='RampUp', start=0.0, stop=1.0, end=80, unit='epoch')
    found = [at(ramp, epoch=epoch) for epoch in (0, 8, 40, 80, 200)]
    assert found == pytest.approx([0.0067379470, 0.0174223746, 0.2865047969, 1, 1], abs=1e-10)
    assert at(dict(ramp, start=1.0, stop=3.0, begin=40), epoch=60) == pytest.approx(
        1 + 2 * math.exp(-5 / 4)
    )


def test_stop_at():
    stop = dict(type='StopAt', value=2.0, end=10)
    assert [at(stop, i) for i in (0, 9, 10, 11)] == [2, 2, 0, 0]


def test_epochs_are_fractions():
    ramp = dict(type='Linear', start=0.0, stop=1.0, end=2, unit='epoch')
    assert at(ramp, iteration=1000, epoch=0.5) == pytest.approx(0.25)
    assert at(dict(type='StopAt', value=1.0, end=2, unit='epoch'), 1, epoch=2.0) == 0


@pytest.mark.parametrize(
    'value, key, got, expected',
    [
        ('high', '', 'high', 'a number or a schedule'),
        (True, '', True, 'a number'),
        (None, '', None, 'a number'),
        (
            dict(type='Linear', start=0, stop=1, end=5, unit='step'),
            '.unit',
            'step',
            "'iter' or 'epoch'",
        ),
        (dict(type='Linear', start=0, stop=1, end=5, begin=5), '.end', 5, 'above begin (5)'),
    ],
)
def test_what_cannot_be_right(value, key, got, expected):
    with refused(key=f'kd.losses.kd.weight{key}', got=got, expected=expected):
        at(value)


@pytest.mark.parametrize(
    'value',
    [
        dict(type='Linear', start=0, stop=1, finish=5),
        dict(type='Linear', start=0, stop=1),
        dict(type='StopAt', value=1.0),
    ],
)
def test_wrong_arguments_name_the_key(value):
    with refused(key='kd.losses.kd.weight', problem='argument'):
        at(value)


def test_an_unknown_schedule_names_the_nearest():
    with refused(key='kd.losses.kd.weight.type', got='Linaer', problem='nearest: Linear'):
        at(dict(type='Linaer', start=0, stop=1, end=5))


def test_parts_of_a_weight_are_no_schedule():
    assert not is_schedule(dict(pixel=0.1, region=0.1)) and not is_schedule(0.1)
    assert is_schedule(dict(type='Cosine', start=0, stop=1, end=5))
