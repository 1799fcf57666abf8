"""One term of the distillation objective: a loss, where it reads, and its weight."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdmm.distillers.bridge import build_connectors, channels_of, check_classes, class_maps
from kdmm.distillers.building import check_shapes
from kdmm.distillers.weighted import WeightedLoss


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
        facts, given = dict(facts), [pairs[tap] for tap in self.taps]
        link = self.arguments.pop('connector', None)
        self.connector, bridged = build_connectors(
            f'{self.where}.connector', link, facts, given, self.several
        )
        facts['tap_channels'] = self._one_or_all([channels_of(s) for s, _ in given])
        facts['student_channels'] = self._one_or_all([channels_of(s) for s, _ in bridged])
        facts['teacher_channels'] = self._one_or_all([channels_of(t) for _, t in bridged])
        self.build(facts)
        check_classes(self.where, self.connector, self.loss)
        sides = [self._one_or_all(side) for side in zip(*bridged, strict=True)]
        check_shapes(f'{self.where} on {self.called}', self.loss, sides, note)

    def forward(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """Weighted log entries: ``kd.loss_<name>`` or ``kd.loss_<name>_<part>``."""
        return self.weigh(self.compute(student, teacher, **context))

    def compute(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """The unweighted loss by part, those parts only that have a weight."""
        if self.connector is not None:
            student, teacher = self.connector(student, teacher)
            for link in class_maps(self.connector):
                if 'labels' in context:
                    context['labels'] = link.remap(context['labels'])
        return self.run(student, teacher, **context)
