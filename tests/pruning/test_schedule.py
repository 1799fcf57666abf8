"""Numbers of the schedules, to six digits, from their formulas."""

import math

import pytest

from kdmm.pruning import METHODS, PruningSchedule
from tests.errors import refused


def schedule(updates: int, **options):
    return PruningSchedule(**{**dict(prune_rate=0.4, updates=updates), **options})


@pytest.mark.parametrize(
    ('updates', 'sigma', 't', 'expected'),
    [
        (200, 1e-5, 0, 1.0),
        (200, 1e-5, 1, 0.944061),
        (200, 1e-5, 10, 0.562341),
        (200, 1e-5, 50, 0.0562341),
        (200, 1e-5, 100, 0.00316228),
        (200, 1e-5, 179, 3.35e-5),
        (100, 1e-5, 1, 0.891251),
        (100, 1e-5, 2, 0.794328),
        (100, 1e-5, 4, 0.630957),
        (100, 1e-5, 25, 0.0562341),
        (100, 1e-3, 1, 0.933254),
        (100, 1e-3, 50, 0.0316),
    ],
)
def test_factor(updates, sigma, t, expected):
    assert schedule(updates, sigma=sigma).alpha_at(t) == pytest.approx(expected, rel=2e-3)
    if t < 50:
        assert schedule(updates, sigma=sigma).alpha_at(t) == pytest.approx(expected, abs=5e-7)


def test_factor_falls_below_one_percent():
    found = [schedule(200).alpha_at(t) < 0.01 for t in (79, 80)]
    assert found == [False, True]


@pytest.mark.parametrize(
    ('updates', 't', 'expected'),
    [
        (200, 0, 0.0),
        (200, 1, 0.021577),
        (200, 10, 0.170260),
        (200, 25, 0.3),
        (200, 50, 0.375),
        (200, 100, 0.398438),
    ],
)
def test_asymptotic_rate(updates, t, expected):
    assert schedule(updates, rate='asymptotic').rate_at(t) == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize(('t', 'kept'), [(1, 0.958010), (2, 0.920428), (4, 0.856685)])
def test_asymptotic_rate_of_a_published_log(t, kept):
    """A log of PGMPF's code has these shares of filters at T = 100."""
    assert 1 - schedule(100, rate='asymptotic').rate_at(t) == pytest.approx(kept, abs=5e-7)


def test_constant_and_poly_rates():
    assert {schedule(20).rate_at(t) for t in range(20)} == {0.4}
    found = [schedule(20, rate='poly').rate_at(t) for t in (0, 9, 19)]
    assert found == pytest.approx([0.4 * (1 - 0.95**3), 0.4 * 0.875, 0.4])


@pytest.mark.parametrize(
    ('form', 'expected'), [('cosine', 0.5), ('linear', 0.5), ('constant', 1.0)]
)
def test_other_factors(form, expected):
    assert schedule(20, alpha=form).alpha_at(10) == pytest.approx(expected)
    assert schedule(20, alpha=form, alpha0=0.5).alpha_at(10) == pytest.approx(expected / 2)


def test_end_of_training():
    made = schedule(20, rate='asymptotic')
    assert [made.alpha_at(t) == 0 for t in (17, 18, 19)] == [False, True, True]
    assert [made.rate_at(t) == 0.4 for t in (17, 18, 19)] == [False, False, True]


@pytest.mark.parametrize('updates', [1, 2, 5, 10, 12])
def test_last_update_is_final_however_short_training_is(updates):
    """The shares of training at which both are final need not be reached before its end."""
    for options in (dict(), dict(rate='asymptotic'), dict(rate='poly', alpha='constant')):
        made = schedule(updates, **options)
        assert (made.alpha_at(updates - 1), made.rate_at(updates - 1)) == (0.0, 0.4)


def test_small_factors_count_as_zero():
    made = schedule(200, alpha_zero_below=1e-3)
    first = next(t for t in range(200) if made.alpha_at(t) == 0)
    assert first == math.ceil(200 * math.log(1e-3) / math.log(1e-5))


def test_methods():
    found = {name: schedule(20, alpha0=a, rate=r) for name, (a, r) in METHODS.items()}
    assert {name: (m.alpha_at(0), m.rate_at(0)) for name, m in found.items()} == dict(
        sfp=(0.0, 0.4), asfp=(0.0, 0.0), srfp=(1.0, 0.4), asrfp=(1.0, 0.0)
    )


@pytest.mark.parametrize(
    'wrong',
    [
        dict(prune_rate=0), dict(prune_rate=1), dict(prune_rate='0.4'), dict(prune_rate=True),
        dict(alpha0=1.5), dict(sigma=0), dict(D=0), dict(alpha_end=2), dict(rate_end=-1),
        dict(rate='asymptote'), dict(alpha='exp'), dict(alpha_zero_below=-1),
    ],
)  # fmt: skip
def test_refused(wrong):
    (key,) = wrong
    with refused(key=key):
        schedule(20, **wrong)
