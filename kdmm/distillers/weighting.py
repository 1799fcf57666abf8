"""The weights of one term: numbers, schedules or measured ones, of the whole loss or by part."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdmm.distillers.balance import Auto, build_auto, is_auto
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.schedules import Progress, Schedule, build_schedule

#: The name that stands for the whole loss.
WHOLE = ''


class Weighting(nn.Module):
    """What multiplies a loss, or each of its parts.

    Args:
        weight: A number, a schedule, an `Auto`, or a dict of those by part.
        where: The config key, for errors.

    Raises:
        ConfigError: For anything else; for a weight that is negative or not finite, be it at one
            of a schedule's ends.
    """

    def __init__(self, weight: Any, where: str) -> None:
        super().__init__()
        self.where = where
        self.schedules: dict[str, Schedule] = {}
        self.autos = nn.ModuleDict()  # their sums are state of the run
        by_part = _by_part(weight)
        if not by_part:
            raise ConfigError(f'{where}: expected a number, or a dict of at least one part')
        for part, value in by_part.items():
            key = f'{where}.{part}' if part else where
            if is_auto(value):
                self.autos[_child(part)] = build_auto(value, key)
            elif isinstance(value, str):
                raise ConfigError(
                    f"{key}: expected a number, a schedule or 'auto:<share>', got {value!r}"
                )
            else:
                self.schedules[part] = build_schedule(value, key)
                _check_sign(self.schedules[part], value, key)
        self.given = tuple(by_part)

    progress = Progress()

    def names(self, parts: Iterable[str] | None) -> tuple[str, ...]:
        """The parts that are weighted, of those that the loss has (None: not known yet).

        Raises:
            ConfigError: If a weight is given for a part that the loss does not have.
        """
        if parts is None:
            return self.given
        parts = tuple(parts)
        if WHOLE in self.given:
            return parts
        if parts == (WHOLE,):
            raise ConfigError(f'{self.where}: the loss has no parts, give one number')
        refuse_unknown(self.where, self.given, parts)
        return tuple(part for part in parts if part in self.given)

    def auto(self, part: str) -> Auto | None:
        """What measures the weight of ``part``, if anything does."""
        for name in (part, WHOLE):
            if _child(name) in self.autos:
                return self.autos[_child(name)]  # type: ignore[return-value]
        return None

    def measuring(self) -> dict[str, Auto]:
        """The measured weights that are not frozen yet, by part (or `WHOLE`)."""
        found = {part: self.auto(part) for part in self.given}
        return {part: auto for part, auto in found.items() if auto is not None and auto.measuring}

    def now(self, part: str) -> float | Tensor:
        """The weight of ``part`` now; a measured one is a scalar tensor without gradient."""
        auto = self.auto(part)
        if auto is not None:
            return auto.value()
        return self.schedules.get(part, self.schedules.get(WHOLE))(self.progress)  # type: ignore[misc]

    def is_zero(self) -> bool:
        """Whether every weight is 0 now."""
        return not self.autos and not any(s(self.progress) for s in self.schedules.values())

    def describe(self) -> str:
        """The current weights, for the table at the start."""
        texts = []
        for part in self.given:
            auto = self.auto(part)
            text = f'{self.now(part):g}' if auto is None else f'auto:{auto.share:g}'
            texts.append(f'{part} {text}' if part else text)
        return ', '.join(texts)


def switched_on(losses: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The terms of ``kd.losses`` whose weight is not the number 0."""
    return {
        name: config
        for name, config in losses.items()
        if not is_switched_off(config.get('weight', 1.0))
    }


def is_switched_off(weight: Any) -> bool:
    """Whether a config's weight is the number 0, of every part if it names parts."""
    values = _by_part(weight).values()
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value == 0
        for value in values
    )


def weights_by_part(weight: Any, parts: Sequence[str]) -> Weighting:
    """``kd.weight`` of an objective that consists of ``parts``; one that is left out counts 1.

    Args:
        weight: A number or a schedule for all parts, or a dict of those by part.
        parts: What can be weighted.

    Raises:
        ConfigError: For an unknown part, a negative weight, or a measured one.
    """
    if isinstance(weight, Mapping) and 'type' not in weight:
        refuse_unknown('kd.weight', weight, parts)
        weight = {**dict.fromkeys(parts, 1.0), **weight}
    made = Weighting(weight, 'kd.weight')
    if len(made.autos):
        raise ConfigError('kd.weight: expected numbers or schedules, not a measured weight')
    return made


def _check_sign(schedule: Schedule, value: Any, where: str) -> None:
    """Refuse what would have the student do the opposite of what the loss asks for."""
    wrong = [end for end in schedule.ends() if not 0 <= end < math.inf]
    if wrong:
        reached = f', which reaches {wrong[0]:g}' if isinstance(value, Mapping) else ''
        raise ConfigError(
            f'{where}: expected 0 or more, got {value!r}{reached}. A negative weight drives the '
            'student away from what the loss compares it with; 0 leaves the term out'
        )


def _by_part(weight: Any) -> dict[str, Any]:
    if isinstance(weight, Mapping) and 'type' not in weight:
        return dict(weight)
    return {WHOLE: weight}


def _child(part: str) -> str:
    return f'part_{part}' if part else 'whole'
