"""Statistics of the measured times and sizes."""

import statistics
from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]
#: Largest relative difference at which two forms still count as the same loss.
TOLERANCE = {'float32': 2e-3, 'bfloat16': 5e-2, 'float16': 5e-2}
#: Times whose upper quartile is more than so many lower ones were disturbed.
STEADY = 1.2
NOTE = (
    f'* disturbed: the quartiles of its times lie further apart than a factor of {STEADY}; '
    'measure it again on an idle machine'
)


def combine(runs: list[Figures]) -> Figures:
    """Median, minimum and quartiles of all times; of the memory figures the highest."""
    for run in runs:
        if 'failed' in run:
            return run
    times = [seconds for run in runs for seconds in run['times']]
    quartiles = quartiles_of(times)
    return dict(
        runs[0],
        times=times,
        median_s=statistics.median(times),
        min_s=min(times),
        quartiles_s=quartiles,
        disturbed=quartiles is not None and quartiles[1] > STEADY * quartiles[0],
        peak_mib=max(run['peak_mib'] for run in runs),
        added_mib=max(run['added_mib'] for run in runs),
    )


def quartiles_of(values: Sequence[float]) -> tuple[float, float] | None:
    """The lower and the upper one; None of less than two values."""
    if len(values) < 2:
        return None
    lower, _, upper = statistics.quantiles(values, n=4, method='inclusive')
    return lower, upper


def ratio(one: Figures | None, other: Figures | None, key: str, least: float = 0.0) -> float | None:
    """Ratio of two measurements; None where one failed or is close to zero."""
    if not one or not other or 'failed' in one or 'failed' in other:
        return None
    return one[key] / other[key] if min(one[key], other[key]) > least else None


def ratios_in_turn(one: Figures, other: Figures) -> Figures | None:
    """Median and quartiles of the ratios of times that were taken one after the other.

    None where one of the rows failed.
    """
    if 'failed' in one or 'failed' in other:
        return None
    found = [a / b for a, b in zip(one['times'], other['times'], strict=True)]
    return dict(median=statistics.median(found), quartiles=quartiles_of(found))


def difference(one: Figures, other: Figures) -> float | None:
    """Largest relative difference of the results of two forms."""
    if 'failed' in one or 'failed' in other or not one['values'] or not other['values']:
        return None
    found = [
        abs(one['values'][key][i] - other['values'][key][i]) / (one['values'][key][0] or 1.0)
        for key in one['values']
        for i in (0, 1)
    ]
    return max(found)


def number(value: Any, digits: int = 2) -> str:
    """A cell; nothing measured is a dash."""
    return '-' if value is None else f'{value:.{digits}f}'


def span(values: Sequence[float] | None, scale: float = 1.0, digits: int = 2) -> str:
    """A cell with both quartiles."""
    return '-' if values is None else ' to '.join(number(value * scale, digits) for value in values)


def marked(label: str, figures: Figures) -> str:
    """The label of a row, with a star if it was disturbed; `NOTE` says what the star means."""
    return f'{label} *' if figures.get('disturbed') else label
