"""Rate and decay of soft filter pruning over training (SFP, ASFP, SRFP, ASRFP)."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kdmm.errors import ConfigError

RateForm = Literal['constant', 'asymptotic', 'poly']
AlphaForm = Literal['exponential', 'cosine', 'linear', 'constant']
#: Method -> factor of pruned filters at the start, course of the rate.
METHODS: dict[str, tuple[float, RateForm]] = dict(
    sfp=(0.0, 'constant'),
    asfp=(0.0, 'asymptotic'),
    srfp=(1.0, 'constant'),
    asrfp=(1.0, 'asymptotic'),
)
#: What rounding may take from a product that is a whole number.
ROUNDING = 1e-9
#: The asymptotic rate has 3/4 of its target after the share D of training.
_THREE_QUARTERS = math.log(4)


@dataclass(frozen=True)
class PruningSchedule:
    """Rate P(t) of update t of T, and the factor alpha(t) by which pruned filters are scaled.

    The rate is P(t) = P (constant), P (1 - exp(-k t)) with k = ln 4 / (D T) (asymptotic, ASFP,
    arXiv 1808.07471), or P (1 - (1 - (t + 1) / T)^3) (poly). The factor is
    alpha0 exp(-kappa t) with kappa = ln((alpha0 + 0.01 sigma) / sigma) / T, so that it ends near
    sigma (SRFP, arXiv 2010.09498; the formula is that of its first author's later code). Near the
    end of training both have their final values, P and 0, and in the last update always.

    Args:
        prune_rate: P, the share of each layer's filters in (0, 1).
        updates: T.
        alpha0: Factor at t = 0, from 0 (SFP) to 1.
        rate: Course of the rate.
        alpha: Course of the factor; ``'cosine'``, ``'linear'`` and ``'constant'`` for ablations.
        sigma: Where the exponential ends: 1e-5, or 1e-3 for ImageNet from scratch.
        D: Share of training after which the asymptotic rate is at 3/4.
        alpha_end: The factor is 0 from this share of training on; 0.8 on ImageNet.
        rate_end: The rate is P from this share on; 0.9 on ImageNet.
        alpha_zero_below: A smaller factor counts as 0; 1e-4 on ImageNet.

    Raises:
        ConfigError: Names the argument that is out of range.
    """

    prune_rate: float
    updates: int
    alpha0: float = 1.0
    rate: RateForm = 'constant'
    alpha: AlphaForm = 'exponential'
    sigma: float = 1e-5
    D: float = 0.125
    alpha_end: float = 0.9
    rate_end: float = 0.95
    alpha_zero_below: float = 0.0

    def __post_init__(self) -> None:
        for key, forms in (('rate', RateForm), ('alpha', AlphaForm)):
            if getattr(self, key) not in get_args(forms):
                expected = f'one of {", ".join(get_args(forms))}'
                raise ConfigError(key=key, got=getattr(self, key), expected=expected)
        between = 'a number above 0 and below 1'
        _check('prune_rate', self.prune_rate, 0 < _number(self.prune_rate) < 1, between)
        _check('sigma', self.sigma, 0 < _number(self.sigma) < 1, between)
        for key in ('alpha0', 'alpha_end', 'rate_end', 'alpha_zero_below'):
            value = getattr(self, key)
            _check(key, value, 0 <= _number(value) <= 1, 'a number from 0 to 1')
        _check('D', self.D, 0 < _number(self.D) <= 1, 'a number above 0, and 1 at most')

    def alpha_at(self, t: int) -> float:
        """Factor of the pruned filters in update t, from 0."""
        if not self.alpha0 or t >= self.updates - 1 or t >= self._from(self.alpha_end):
            return 0.0
        done = t / self.updates
        if self.alpha == 'exponential':
            factor = (self.sigma / (self.alpha0 + 0.01 * self.sigma)) ** done
        elif self.alpha == 'cosine':
            factor = (1 + math.cos(math.pi * done)) / 2
        elif self.alpha == 'linear':
            factor = 1 - done
        else:
            factor = 1.0
        value = self.alpha0 * factor
        return 0.0 if value < self.alpha_zero_below else value

    def rate_at(self, t: int) -> float:
        """Share of the filters that update t prunes, t from 0."""
        if self.rate == 'constant' or t >= self.updates - 1 or t >= self._from(self.rate_end):
            return self.prune_rate
        if self.rate == 'poly':
            return self.prune_rate * (1 - (1 - (t + 1) / self.updates) ** 3)
        return self.prune_rate * (1 - math.exp(-_THREE_QUARTERS * t / (self.D * self.updates)))

    def _from(self, share: float) -> float:
        return share * self.updates - ROUNDING


def _number(value: Any) -> float:
    """The value, or NaN, which no range contains."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _check(key: str, got: Any, right: bool, expected: str) -> None:
    if not right:
        raise ConfigError(key=key, got=got, expected=expected)
