"""Means and differences between runs of the same seeds, with their confidence intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two arms in runs of the same seeds.

    Attributes:
        seeds: Number of seeds at which both arms have a figure.
        mean: Mean of the differences.
        half: Half the width of the interval of Student's t at `LEVEL` around the mean; None of one
            seed, which has no interval.
    """

    seeds: int
    mean: float
    half: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval."""
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)

    @property
    def undecided(self) -> bool:
        """Return whether the sign is open: the interval spans or touches zero, or is missing."""
        return self.half is None or abs(self.mean) <= self.half

    def cells(self, digits: int) -> tuple[str, str, str]:
        """The mean, the interval with ``undecided`` where it is, and the number of seeds."""
        ends = [] if self.interval is None else list(self.interval)
        words = [' to '.join(f'{end:+.{digits}f}' for end in ends)] if ends else []
        words += ['undecided'] if self.undecided else []
        return f'{self.mean:+.{digits}f}', ', '.join(words), str(self.seeds)


def paired_difference(
    values: Sequence[float | None], baseline: Sequence[float | None]
) -> PairedDifference | None:
    """Compare two arms seed by seed.

    The interval assumes that the differences are normal and independent; it says nothing of how
    many arms were compared with the same baseline.

    Args:
        values: One figure a seed, None where there is none.
        baseline: The other arm's at the same seeds.

    Returns:
        None without a seed at which both have a figure.

    Raises:
        ValueError: If the arms have different numbers of seeds.
    """
    pairs = zip(values, baseline, strict=True)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if not differences:
        return None
    return PairedDifference(len(differences), *mean_and_half(differences))


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its interval of Student's t at `LEVEL`.

    The interval assumes that the values are independent, and normal or many. One value has none.

    Raises:
        ValueError: Without a value.
    """
    if not values:
        raise ValueError('no value')
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return mean, None
    from scipy.stats import t  # takes a second, and nothing else here needs it

    quantile = float(t.ppf((1 + LEVEL) / 2, count - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(count)
