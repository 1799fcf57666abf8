"""Quantiles of Student's t at 97.5 % are those of printed tables: 12.706, 4.303, 2.7764."""

import math

import pytest

from kdmm.utils.statistics import PairedDifference, mean_and_half, paired_difference


def test_mean_and_interval_of_three_seeds():
    # differences 1, 2, 6: mean 3, deviation sqrt((4 + 1 + 9) / 2) = sqrt(7)
    found = paired_difference([11.0, 14.0, 36.0], [10.0, 12.0, 30.0])
    assert found is not None and found.seeds == 3 and found.mean == pytest.approx(3)
    assert found.half == pytest.approx(4.303 * math.sqrt(7) / math.sqrt(3), rel=1e-4)
    assert found.undecided
    assert found.interval == (found.mean - found.half, found.mean + found.half)


@pytest.mark.parametrize('count, quantile', [(2, 12.706), (5, 2.7764)])
def test_degrees_of_freedom(count, quantile):
    baseline = [float(7 * i % 5) for i in range(count)]
    values = [value + 1 + (-1) ** i for i, value in enumerate(baseline)]
    found = paired_difference(values, baseline)
    spread = [1 + (-1) ** i for i in range(count)]
    mean = sum(spread) / count
    deviation = math.sqrt(sum((x - mean) ** 2 for x in spread) / (count - 1))
    assert found.half == pytest.approx(quantile * deviation / math.sqrt(count), rel=1e-4)


def test_seeds_are_paired_and_the_spread_that_they_share_cancels():
    found = paired_difference([32.0, 51.0, 13.0], [30.0, 49.0, 11.0])
    assert found == PairedDifference(3, 2.0, 0.0) and not found.undecided
    back = paired_difference([30.0, 49.0, 11.0], [32.0, 51.0, 13.0])
    assert back == PairedDifference(3, -2.0, 0.0) and not back.undecided


def test_seeds_without_a_figure_are_left_out():
    found = paired_difference([1.0, None, 5.0, 2.0], [0.0, 9.0, None, 0.5])
    assert found is not None and found.seeds == 2 and found.mean == pytest.approx(1.25)
    assert paired_difference([None, 1.0], [1.0, None]) is None
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])


def test_one_seed_decides_nothing():
    found = paired_difference([9.0], [1.0])
    assert found == PairedDifference(1, 8.0, None) and found.undecided and found.interval is None
    assert found.cells(2) == ('+8.00', 'undecided', '1')


@pytest.mark.parametrize(
    'mean, half, interval',
    [
        (1.0, 0.99, '+0.01 to +1.99'),
        (-1.0, 0.99, '-1.99 to -0.01'),
        (1.0, 1.01, '-0.01 to +2.01, undecided'),
        (-1.0, 1.01, '-2.01 to +0.01, undecided'),
        (1.0, 1.0, '+0.00 to +2.00, undecided'),
        (0.0, 0.0, '+0.00 to +0.00, undecided'),
    ],
)
def test_undecided_where_the_interval_spans_zero(mean, half, interval):
    assert PairedDifference(3, mean, half).cells(2) == (f'{mean:+.2f}', interval, '3')


def test_mean_with_its_interval():
    # 1, 2, 6: mean 3, deviation sqrt((4 + 1 + 9) / 2) = sqrt(7)
    mean, half = mean_and_half([1.0, 2.0, 6.0])
    assert mean == 3 and half == pytest.approx(4.303 * math.sqrt(7) / math.sqrt(3), rel=1e-4)
    assert mean_and_half([2.5]) == (2.5, None) and mean_and_half([2.5] * 4) == (2.5, 0.0)
    with pytest.raises(ValueError):
        mean_and_half([])
