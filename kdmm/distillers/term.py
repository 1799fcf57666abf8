"""One term of the distillation objective: a loss, where it reads, and its weight."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.distillers.errors import ConfigError, nearest, refuse_unknown
from kdmm.distillers.schedules import Progress, Schedule, build_schedule, is_schedule
from kdmm.registry import MODELS


class Term(nn.Module):
    """``weight * loss(connector(student), teacher)`` on one tap.

    Args:
        name: The term's name under ``kd.losses``.
        config: The term's dict: the loss's own arguments plus ``on`` (tap name), ``weight`` (number
            or schedule, or part name to those), ``connector`` (dict) and ``teacher`` (index). Any
            numeric argument of the loss may be a schedule.
        taps: Known tap names.
        facts: Values for arguments that the config leaves out: ``num_classes`` and the like.
        shapes: Tap name to (student shape, teacher shape) of a probe.

    Raises:
        ConfigError: Unknown loss, tap or argument, with the nearest names.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        taps: Mapping[str, Any],
        facts: Mapping[str, Any],
        shapes: Mapping[str, tuple[torch.Size, torch.Size]],
    ) -> None:
        super().__init__()
        self.name = name
        where = f'kd.losses.{name}'
        arguments = dict(config)
        self.on = arguments.pop('on', None)
        if self.on not in taps:
            raise ConfigError(f'{where}.on: no tap {self.on!r}; {nearest(str(self.on), taps)}')
        self.teacher = arguments.pop('teacher', 0)
        weight = arguments.pop('weight', 1.0)
        connector = arguments.pop('connector', None)
        student_shape, teacher_shape = shapes[self.on]
        facts = {
            **facts,
            'student_channels': student_shape[1],
            'teacher_channels': teacher_shape[1],
        }
        self.connector = None
        if connector is not None:
            self.connector = _build(f'{where}.connector', connector, facts)
            if isinstance(self.connector, nn.Module) and hasattr(self.connector, 'conv'):
                facts['student_channels'] = facts['teacher_channels']
        self.schedules = {
            key: build_schedule(value, f'{where}.{key}')
            for key, value in arguments.items()
            if is_schedule(value)
        }
        start = Progress()
        arguments.update({key: schedule(start) for key, schedule in self.schedules.items()})
        self.loss = _build(where, arguments, facts)
        for key in self.schedules:
            if not isinstance(getattr(self.loss, key, None), int | float):
                raise ConfigError(f'{where}.{key}: cannot be a schedule, it is read only once')
        self.weights = self._weights(weight, f'{where}.weight')

    def set_progress(self, progress: Progress) -> None:
        """Move every schedule to ``progress``."""
        self.progress = progress
        for key, schedule in self.schedules.items():
            setattr(self.loss, key, schedule(progress))

    progress = Progress()

    @property
    def needs(self) -> tuple[str, ...]:
        """Context the loss asks for."""
        return tuple(getattr(self.loss, 'needs', ()))

    def forward(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """Weighted log entries: ``kd.loss_<name>`` or ``kd.loss_<name>_<part>``."""
        if self.connector is not None:
            student = self.connector(student, teacher)
        try:
            value = self.loss(student, teacher, **context)
        except ValueError as error:  # shapes, label values: the loss does not know its key
            raise ConfigError(f'kd.losses.{self.name} on tap {self.on!r}: {error}') from error
        if isinstance(value, Tensor):
            if '' not in self.weights:
                raise ConfigError(
                    f'kd.losses.{self.name}.weight: the loss has no parts, give one number'
                )
            return {f'kd.loss_{self.name}': self.weights[''](self.progress) * value}
        if '' in self.weights:
            self.weights = {part: self.weights[''] for part in value}
        refuse_unknown(f'kd.losses.{self.name}.weight', self.weights, value)
        return {
            f'kd.loss_{self.name}_{part}': self.weights[part](self.progress) * entry
            for part, entry in value.items()
            if part in self.weights
        }

    def describe_weight(self) -> str:
        """The current weight or weights, for the table at the start."""
        values = {part: f'{weight(self.progress):g}' for part, weight in self.weights.items()}
        return values.get('') or ', '.join(f'{part} {value}' for part, value in values.items())

    @staticmethod
    def _weights(weight: Any, where: str) -> dict[str, Schedule]:
        """Part name to schedule; the empty name stands for the whole loss."""
        if isinstance(weight, Mapping) and not is_schedule(weight):
            return {
                part: build_schedule(value, f'{where}.{part}') for part, value in weight.items()
            }
        return {'': build_schedule(weight, where)}


def _build(where: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
    """Build a registered module, its unset arguments filled from ``facts`` where it has them."""
    arguments = {**config, '_scope_': 'kdmm'}  # an inherited config may name the scope already
    kind = arguments.get('type')
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise ConfigError(
            f'{where}.type: no loss {kind!r}; {nearest(str(kind), MODELS.module_dict)}'
        )
    known = inspect.signature(cls).parameters
    refuse_unknown(where, (key for key in arguments if key not in ('type', '_scope_')), known)
    for key, value in facts.items():
        if key in known:
            arguments.setdefault(key, value)
    missing = [
        key
        for key, parameter in known.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and key not in arguments
    ]
    if missing:
        raise ConfigError(f'{where} ({kind}): missing {", ".join(missing)}')
    try:
        return MODELS.build(arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{where}: {error}') from error
