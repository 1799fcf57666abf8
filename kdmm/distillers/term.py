"""One term of the distillation objective: a loss, where it reads, and its weight."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdmm.distillers.bridge import build_connectors, channels_of, check_classes, class_maps
from kdmm.distillers.building import check_shapes
from kdmm.distillers.weighted import WeightedLoss
from kdmm.errors import ConfigError
from kdmm.taps import Calls


class Term(WeightedLoss):
    """``weight * loss(*connector(student, teacher))`` on one tap or several.

    Args:
        name: The term's name under ``kd.losses``.
        config: The term's dict: the loss's own arguments plus ``on`` (a tap, or a list of taps: the
            loss then gets tuples), ``weight`` (number, schedule or ``'auto:<share>'``, or part name
            to those), ``connector`` (dict, or a list of dicts) and ``teacher`` (index). Any numeric
            argument of the loss may be a schedule.
        taps: Known tap names.
        facts: Values for arguments that the config leaves out: ``num_classes`` and the like. The
            term adds ``student_channels`` and ``teacher_channels`` (behind the connectors) and
            ``tap_channels`` (of the student, before them); tuples if it reads several taps.
        pairs: Tap name to (student, teacher) activations as training will give them, blank.
        note: What these are for, as the end of an error message.

    Raises:
        ConfigError: Unknown loss, tap or argument, with the nearest names; shapes that the loss
            refuses.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        taps: Mapping[str, Any],
        facts: Mapping[str, Any],
        pairs: Mapping[str, tuple[Any, Any]],
        note: str = '',
    ) -> None:
        super().__init__(name, config, taps)
        self.teacher = self.arguments.pop('teacher', 0)
        self.calls = 1
        levels = self._levels(
            self._one_or_all([pairs[tap][0] for tap in self.taps]),
            self._one_or_all([pairs[tap][1] for tap in self.taps]),
        )
        self.calls = len(levels)
        facts, link = dict(facts), self.arguments.pop('connector', None)
        given = list(zip(*levels[0], strict=True)) if self.several else [levels[0]]
        self.connector, bridged = build_connectors(
            f'{self.where}.connector', link, facts, given, self.several
        )
        facts['tap_channels'] = self._one_or_all([channels_of(s) for s, _ in given])
        facts['student_channels'] = self._one_or_all([channels_of(s) for s, _ in bridged])
        facts['teacher_channels'] = self._one_or_all([channels_of(t) for _, t in bridged])
        self.build(facts)
        check_classes(self.where, self.connector, self.loss)
        self._check_levels(levels, note)

    def forward(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """Weighted log entries: ``kd.loss_<name>`` or ``kd.loss_<name>_<part>``."""
        return self.weigh(self.compute(student, teacher, **context))

    def compute(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """The unweighted loss by part, those parts only that have a weight.

        Of a module that runs several times, as a detector's head does on every level of its
        pyramid, it is the sum over the calls, each compared with its own.
        """
        levels = self._levels(student, teacher)
        if len(levels) != self.calls:
            raise ConfigError(
                f'{self.where}: {self.called} runs {len(levels)} time(s) in training and '
                f'{self.calls} time(s) when the model is built. A module that runs once an image '
                'cannot be tapped; of one that runs once a level choose a call with #k, the first '
                'is #1'
            )
        for link in class_maps(self.connector):
            if 'labels' in context:
                context['labels'] = link.remap(context['labels'])
        values = [self.run(*self._bridge(*level), **context) for level in levels]
        if len(values) == 1:
            return values[0]
        return {part: torch.stack([v[part] for v in values]).sum() for part in values[0]}

    def _bridge(self, student: Any, teacher: Any) -> tuple[Any, Any]:
        return (student, teacher) if self.connector is None else self.connector(student, teacher)

    def _levels(self, student: Any, teacher: Any) -> list[tuple[Any, Any]]:
        """What is compared with what: a pair, or one a call of a module that runs several times.

        Raises:
            ConfigError: If the numbers of calls differ, or several taps are to be compared at once.
        """
        if self.several:
            for tap, *sides in zip(self.taps, student, teacher, strict=True):
                if any(isinstance(side, Calls) for side in sides):
                    raise ConfigError(
                        f'{self.where}.on: tap {tap!r} is a module that runs several times, which '
                        'a term on several taps does not take. Name taps that choose a call with '
                        '#k, the first is #1'
                    )
            return [(student, teacher)]
        counts = [len(x) if isinstance(x, Calls) else 1 for x in (student, teacher)]
        if counts[0] != counts[1]:
            raise ConfigError(
                f'{self.where}: the module of {self.called} runs {counts[0]} time(s) in the '
                f'student and {counts[1]} time(s) in the teacher. A module that runs once an image '
                'cannot be tapped; of one that runs once a level choose calls with #k, the first '
                'is #1: dict(student=..., teacher=...) in kd.taps'
            )
        return list(zip(student, teacher, strict=True)) if counts[0] > 1 else [(student, teacher)]

    def _check_levels(self, levels: list[tuple[Any, Any]], note: str) -> None:
        """Let the loss judge every call.

        Raises:
            ConfigError: If it refuses one, or cannot be computed several times a step.
        """
        if self.calls > 1 and (
            getattr(self.loss, 'stateful', False) or hasattr(self.loss, 'after_step')
        ):
            raise ConfigError(
                f'{self.where}: {self.called} runs {self.calls} times, and '
                f'{type(self.loss).__name__} keeps a memory of one activation a step. Choose a '
                'call with #k, the first is #1'
            )
        for number, level in enumerate(levels, start=1):
            call = f', call #{number}' * (self.calls > 1)
            where = f'{self.where} on {self.called}{call}'
            try:
                bridged = self._bridge(*level)
            except (ValueError, RuntimeError, AttributeError) as error:
                raise ConfigError(f'{where}: {error} {note}'.rstrip()) from error
            check_shapes(where, self.loss, bridged, note)
