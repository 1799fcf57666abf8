"""One term of the distillation objective: a loss, where it reads, and its weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.distillers.bridge import build_connectors, channels_of, check_classes, class_maps
from kdmm.distillers.building import build_loss, check_shapes
from kdmm.distillers.schedules import Progress
from kdmm.distillers.section import tap_names
from kdmm.distillers.taps import trained
from kdmm.distillers.weighting import WHOLE, Weighting
from kdmm.errors import ConfigError


class Term(nn.Module):
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
        super().__init__()
        self.name, self.where = name, f'kd.losses.{name}'
        arguments = dict(config)
        on = arguments.pop('on', None)
        self.taps = tap_names(on, taps, f'{self.where}.on')
        self.several = not isinstance(on, str)
        self.teacher = arguments.pop('teacher', 0)
        self.weights = Weighting(arguments.pop('weight', 1.0), f'{self.where}.weight')
        facts, given = dict(facts), [pairs[tap] for tap in self.taps]
        self.connector, bridged = build_connectors(
            f'{self.where}.connector', arguments.pop('connector', None), facts, given, self.several
        )
        facts['tap_channels'] = self._one_or_all([channels_of(s) for s, _ in given])
        facts['student_channels'] = self._one_or_all([channels_of(s) for s, _ in bridged])
        facts['teacher_channels'] = self._one_or_all([channels_of(t) for _, t in bridged])
        self.loss, self.schedules = build_loss(self.where, arguments, facts)
        check_classes(self.where, self.connector, self.loss)
        student, teacher = (self._one_or_all(side) for side in zip(*bridged, strict=True))
        check_shapes(f'{self.where} on {self.called}', self.loss, student, teacher, note)
        # what the loss declares, or else what it gives when it was computed
        self._parts: tuple[str, ...] | None = getattr(self.loss, 'parts', None)
        self.weights.names(self._parts)

    def set_progress(self, progress: Progress) -> None:
        """Move every schedule to ``progress``."""
        self.progress = self.weights.progress = progress
        for key, schedule in self.schedules.items():
            setattr(self.loss, key, schedule(progress))

    progress = Progress()

    @property
    def needs(self) -> tuple[str, ...]:
        """Context the loss asks for."""
        return tuple(getattr(self.loss, 'needs', ()))

    @property
    def idle(self) -> bool:
        """Whether nothing is to be computed now: every weight is 0, and there is no memory."""
        return self.weights.is_zero() and not getattr(self.loss, 'stateful', False)

    @property
    def on(self) -> str:
        """The tap or taps, as the table at the start calls them."""
        return ', '.join(self.taps)

    @property
    def called(self) -> str:
        """The tap or taps, as errors call them."""
        return f'tap{"s" * self.several} {", ".join(map(repr, self.taps))}'

    @property
    def parts(self) -> tuple[str, ...]:
        """The weighted parts, as far as they are known; `WHOLE` alone for a loss without."""
        return self.weights.names(self._parts)

    def label(self, part: str) -> str:
        """``<name>`` or ``<name>_<part>``."""
        return f'{self.name}_{part}' if part else self.name

    def pick(self, found: Mapping[str, Any]) -> Any:
        """What the loss reads of the recorded taps: one activation, or a tuple of several."""
        return self._one_or_all([found[tap] for tap in self.taps])

    def _one_or_all(self, items: Sequence[Any]) -> Any:
        return tuple(items) if self.several else items[0]

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
        try:
            value = self.loss(student, teacher, **context)
        except ValueError as error:  # shapes, label values: the loss does not know its key
            raise ConfigError(f'{self.where} on {self.called}: {error}') from error
        values = {WHOLE: value} if isinstance(value, Tensor) else dict(value)
        self._parts = tuple(values)
        return {part: values[part] for part in self.parts}

    def weigh(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted log entries of what :meth:`compute` gave."""
        return {
            f'kd.loss_{self.label(part)}': self.weights.now(part) * value
            for part, value in values.items()
        }

    def silence(self, student: Any) -> dict[str, Tensor]:
        """Exact zeros under the same names, which reach everything that would be trained.

        DDP waits for a gradient of every parameter, be it zero.
        """
        reached = [p for p in self.parameters() if p.requires_grad] + list(trained(student))
        empty = (x[:0] if x.ndim else x.reshape(1)[:0] for x in reached)  # views, whatever layout
        zero = sum((x.float().sum() for x in empty), torch.zeros(()))
        return {f'kd.loss_{self.label(part)}': zero for part in self.parts}

    def diagnostics(self) -> dict[str, Any]:
        """``kd.<name>_<key>`` of what the loss keeps in ``logged``."""
        logged = getattr(self.loss, 'logged', {})
        return {f'kd.{self.name}_{key}': value for key, value in logged.items()}

    def describe_weight(self) -> str:
        """The current weight or weights, for the table at the start."""
        return self.weights.describe()
