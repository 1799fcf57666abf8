"""Values that change during training: weights, temperatures.

A schedule is a pure function of the progress, so it needs no state and survives a resume.
"""

import math
from dataclasses import dataclass
from typing import Any

from kdmm.errors import ConfigError, nearest
from kdmm.registry import SCHEDULES


@dataclass(frozen=True)
class Progress:
    """Progress of training: completed iterations, and epochs as a fraction."""

    iteration: int = 0
    epoch: float = 0.0


class Schedule:
    """Base: subclasses say what :meth:`at` is at a position in their own unit.

    Args:
        unit: ``'iter'`` (default) or ``'epoch'``; both work in MMEngine's iteration-based and
            epoch-based loops (an epoch is one pass over the training data loader).
    """

    def __init__(self, unit: str = 'iter') -> None:
        if unit not in ('iter', 'epoch'):
            raise ConfigError(key='unit', got=unit, expected="'iter' or 'epoch'")
        self.unit = unit

    def __call__(self, progress: Progress) -> float:
        """Return the value at ``progress``."""
        return self.at(progress.iteration if self.unit == 'iter' else progress.epoch)

    def at(self, position: float) -> float:
        """Return the value at ``position`` iterations or epochs."""
        raise NotImplementedError

    def ends(self) -> tuple[float, ...]:
        """The values between which all others lie, as far as they are known before training."""
        return (self.at(0),)


@SCHEDULES.register_module()
class Constant(Schedule):
    """``value`` throughout."""

    def __init__(self, value: float, unit: str = 'iter') -> None:
        super().__init__(unit)
        self.value = float(value)

    def at(self, position: float) -> float:
        """``value``."""
        return self.value


class _Ramp(Schedule):
    """From ``start`` to ``stop`` between ``begin`` and ``end``; constant outside."""

    def __init__(
        self, start: float, stop: float, end: float, begin: float = 0, unit: str = 'iter'
    ) -> None:
        super().__init__(unit)
        if end <= begin:
            raise ConfigError(key='end', got=end, expected=f'a number above begin ({begin})')
        self.start, self.stop, self.begin, self.end = float(start), float(stop), begin, end

    def at(self, position: float) -> float:
        """``start`` before ``begin``, ``stop`` from ``end`` on, the ramp between."""
        share = (position - self.begin) / (self.end - self.begin)
        return self.start + (self.stop - self.start) * self.shape(min(max(share, 0.0), 1.0))

    def ends(self) -> tuple[float, ...]:
        """``start`` and ``stop``."""
        return self.start, self.stop

    def shape(self, share: float) -> float:
        """[0, 1] into [0, 1], without a turn; 1 to 1."""
        raise NotImplementedError


@SCHEDULES.register_module()
class Linear(_Ramp):
    """Linear warm-up or decay from ``start`` (until ``begin``) to ``stop`` (from ``end``)."""

    def shape(self, share: float) -> float:
        """The identity."""
        return share


@SCHEDULES.register_module()
class Cosine(_Ramp):
    """Half a cosine from ``start`` (until ``begin``) to ``stop`` (from ``end``)."""

    def shape(self, share: float) -> float:
        """``(1 - cos(pi x)) / 2``."""
        return 0.5 * (1 - math.cos(math.pi * share))


@SCHEDULES.register_module()
class RampUp(_Ramp):
    """Gaussian ramp-up, for ``start=0, stop=1`` exp(-5) before ``begin`` and 1 from ``end`` on.

    That of temporal ensembling (arXiv 1610.02242), which OKDDip (arXiv 1912.00350) uses, too.
    """

    def shape(self, share: float) -> float:
        """``exp(-5 (1 - x)^2)``, which does not begin at 0."""
        return math.exp(-5 * (1 - share) ** 2)


@SCHEDULES.register_module()
class StopAt(Schedule):
    """``value`` before ``end``, 0 from there on."""

    def __init__(self, value: float, end: float, unit: str = 'iter') -> None:
        super().__init__(unit)
        self.value, self.end = float(value), end

    def at(self, position: float) -> float:
        """``value`` or 0."""
        return self.value if position < self.end else 0.0

    def ends(self) -> tuple[float, ...]:
        """``value`` and 0."""
        return self.value, 0.0


def build_schedule(value: Any, where: str) -> Schedule:
    """Build a `Schedule` from a number or a ``dict(type=...)``.

    Raises:
        ConfigError: For anything else; ``where`` names the key.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | dict):
        raise ConfigError(key=where, got=value, expected='a number or a schedule')
    if not isinstance(value, dict):
        return Constant(value)
    arguments = dict(value)
    kind = SCHEDULES.get(str(arguments.pop('type', None)))
    if kind is None:
        known = nearest(str(value.get('type')), SCHEDULES.module_dict)
        raise ConfigError(f'no such schedule; {known}', key=f'{where}.type', got=value.get('type'))
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise error.under(where) from error.__cause__
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), key=where) from error


def is_schedule(value: Any) -> bool:
    """Return whether a config value is a schedule: a dict whose ``type`` is registered."""
    return isinstance(value, dict) and SCHEDULES.get(str(value.get('type'))) is not None
