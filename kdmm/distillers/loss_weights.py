"""The weights of a term: numbers, schedules, or measured by the gradient ratio."""

import math
from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.errors import ConfigError, refuse_unknown
from kdmm.losses.base import WHOLE
from kdmm.schedules import Progress, Schedule, build_schedule

_FORM = "'auto:0.1' or dict(type='Auto', share=0.1, iterations=20)"


class Auto(nn.Module):
    """A weight that gives a term ``share`` of the task's gradient at the taps the term reads.

    ``weight = share * sum |dL_task/dtaps| / sum |dL_term/dtaps|`` (L2 norms; sums over the
    iterations measured so far), from the first iteration on and frozen after ``iterations`` of
    them. An iteration in which a norm is zero or not finite does not count, and while there is none
    that counts the weight is 1. All of it is state of the run, so a resumed run continues to the
    bit. It is no published method; published weights hold for one resolution and pair of networks.

    Args:
        name: Name of the weight in the log.
        share: Of the task's gradient norm.
        iterations: How many are measured.
    """

    def __init__(self, name: str, share: float, iterations: int = 20) -> None:
        super().__init__()
        self.name, self.share, self.iterations = name, share, iterations
        self.register_buffer('task_sum', torch.zeros(()))
        self.register_buffer('term_sum', torch.zeros(()))
        self.register_buffer('count', torch.zeros((), dtype=torch.int64))
        self.register_buffer('seen', torch.zeros((), dtype=torch.int64))
        self.register_buffer('frozen', torch.zeros((), dtype=torch.bool))
        self.measuring, self._seen = True, 0  # copies of the buffers, without a device sync
        self.register_load_state_dict_post_hook(_read_back)

    def value(self) -> Tensor:
        """The weight, a scalar: the running estimate, in the end the frozen one."""
        return torch.where(self.count > 0, self.share * self.task_sum / self.term_sum, 1.0)

    def observe(self, task: Tensor, term: Tensor) -> None:
        """Count the gradient norms of one iteration (of the unweighted term)."""
        good = torch.isfinite(task) & torch.isfinite(term) & (task > 0) & (term > 0)
        self.task_sum += torch.where(good, task, 0.0)
        self.term_sum += torch.where(good, term, 0.0)
        self.count += good
        self.seen += 1
        self._seen += 1
        if self._seen % self.iterations == 0:
            self._settle()

    def _settle(self) -> None:
        counted = int(self.count)  # the only wait for the device
        bad = f'{self._seen - counted} of {self._seen} measured iterations'
        if counted:
            self.frozen.fill_(True)
            self.measuring = False
            print_log(
                f'{self.name}: frozen at {float(self.value()):.6g} '
                f"(share {self.share:g} of the task's gradient, {counted} iterations)",
                'current',
            )
        if counted < self._seen:
            print_log(
                f'{self.name}: a gradient at the taps was zero or not finite in {bad}; they do not '
                'count' + ('' if counted else ', so the weight stays 1 and measuring goes on'),
                'current',
                WARNING,
            )

    def extra_repr(self) -> str:
        """Arguments."""
        return f'share={self.share:g}, iterations={self.iterations}'

    task_sum: Tensor
    term_sum: Tensor
    count: Tensor
    seen: Tensor
    frozen: Tensor


class LossWeights(nn.Module):
    """Multiplies a loss, or each of its parts.

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
            raise ConfigError(
                key=where, got=weight, expected='a number, or a dict of at least one part'
            )
        for part, value in by_part.items():
            key = f'{where}.{part}' if part else where
            if is_auto(value):
                self.autos[_child(part)] = build_auto(value, key)
            elif isinstance(value, str):
                raise ConfigError(
                    key=key, got=value, expected="a number, a schedule or 'auto:<share>'"
                )
            else:
                self.schedules[part] = build_schedule(value, key)
                _check_sign(self.schedules[part], value, key)
        self.given = tuple(by_part)
        self.set_progress(Progress())

    def set_progress(self, progress: Progress) -> None:
        """Move the weights that are schedules to ``progress``."""
        self._numbers = {part: schedule(progress) for part, schedule in self.schedules.items()}

    def names(self, parts: Iterable[str]) -> tuple[str, ...]:
        """Return the parts that are weighted, of those that the loss has.

        Raises:
            ConfigError: If a weight is given for a part that the loss does not have.
        """
        parts = tuple(parts)
        if WHOLE in self.given:
            return parts
        if parts == (WHOLE,):
            raise ConfigError('the loss has no parts', key=self.where, fix='Give one number.')
        refuse_unknown(self.where, self.given, parts)
        return tuple(part for part in parts if part in self.given)

    def auto(self, part: str) -> Auto | None:
        """Return the `Auto` that measures the weight of ``part``, None if there is none."""
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
        return self._numbers[part if part in self._numbers else WHOLE]

    def is_zero(self) -> bool:
        """True if every weight is 0 now."""
        return not self.autos and not any(self._numbers.values())

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
    """True if a config's weight is the number 0, of every part if it names parts."""
    values = _by_part(weight).values()
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value == 0
        for value in values
    )


def constant_weight(weight: Any) -> Any:
    """Return a config's weight with 1 for what changes during a run, by part where it has parts."""
    if isinstance(weight, Mapping) and 'type' not in weight:
        return {part: constant_weight(value) for part, value in weight.items()}
    return weight if isinstance(weight, int | float) else 1.0


def weights_by_part(weight: Any, parts: Sequence[str]) -> LossWeights:
    """Build ``kd.weight`` of an objective with fixed ``parts``; parts left out have weight 1.

    Args:
        weight: A number or a schedule for all parts, or a dict of those by part.
        parts: Names of the parts.

    Raises:
        ConfigError: For an unknown part, a negative weight, or a measured one.
    """
    if isinstance(weight, Mapping) and 'type' not in weight:
        refuse_unknown('kd.weight', weight, parts)
        weight = {**dict.fromkeys(parts, 1.0), **weight}
    made = LossWeights(weight, 'kd.weight')
    if len(made.autos):
        raise ConfigError(
            key='kd.weight', got=weight, expected='numbers or schedules, not a measured weight'
        )
    return made


def _check_sign(schedule: Schedule, value: Any, where: str) -> None:
    """Refuse negative and infinite weights."""
    wrong = [end for end in schedule.ends() if not 0 <= end < math.inf]
    if wrong:
        reached = f' (it reaches {wrong[0]:g})' if isinstance(value, Mapping) else ''
        raise ConfigError(
            f'a negative weight{reached} drives the student away from what the loss compares it '
            'with',
            key=where,
            got=value,
            expected='0 or more',
            fix='0 leaves the term out.',
        )


def _by_part(weight: Any) -> dict[str, Any]:
    if isinstance(weight, Mapping) and 'type' not in weight:
        return dict(weight)
    return {WHOLE: weight}


def _child(part: str) -> str:
    return f'part_{part}' if part else 'whole'


def is_auto(value: Any) -> bool:
    """True if a config value asks for `Auto`."""
    if isinstance(value, dict):
        return value.get('type') == 'Auto'
    return isinstance(value, str) and value.split(':')[0].strip().lower() == 'auto'


def build_auto(value: Any, where: str) -> Auto:
    """``'auto:<share>'`` or ``dict(type='Auto', share=, iterations=)`` as an `Auto`.

    Raises:
        ConfigError: If the share is no positive number or the iterations no positive integer.
    """
    options = dict(value) if isinstance(value, dict) else dict(share=_number(value))
    options.pop('type', None)
    refuse_unknown(where, options, ('share', 'iterations'))
    share, iterations = options.get('share'), options.get('iterations', 20)
    positive = isinstance(share, int | float) and 0 < share < math.inf
    if not positive or type(iterations) is not int or iterations < 1:
        raise ConfigError(
            key=where,
            got=value,
            expected=f'{_FORM}, share a positive number, iterations a positive integer',
        )
    return Auto(where, float(share), iterations)  # type: ignore[arg-type]


def _number(text: str) -> float | None:
    try:
        return float(text.partition(':')[2])
    except ValueError:
        return None


def _read_back(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Auto)
    module._seen, module.measuring = int(module.seen), not bool(module.frozen)
