"""What the terms of all objectives have in common: a loss, the taps it reads, and its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.distillers.building import build_loss
from kdmm.distillers.section import tap_names
from kdmm.distillers.weighting import WHOLE, Weighting
from kdmm.errors import ConfigError
from kdmm.schedules import Progress
from kdmm.taps import trained


class WeightedLoss(nn.Module):
    """A loss of ``kd.losses`` with its weight or weights, and schedules of its arguments.

    Args:
        name: The term's name under ``kd.losses``.
        config: The term's dict; see `Term`. What remains in ``arguments`` is for :meth:`build`.
        taps: Known tap names.

    Raises:
        ConfigError: For a tap or weight that cannot be.
    """

    loss: nn.Module

    def __init__(self, name: str, config: Mapping[str, Any], taps: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.where = name, f'kd.losses.{name}'
        self.arguments = dict(config)
        on = self.arguments.pop('on', None)
        self.taps = tap_names(on, taps, f'{self.where}.on')
        self.several = not isinstance(on, str)
        self.weights = Weighting(self.arguments.pop('weight', 1.0), f'{self.where}.weight')

    def build(self, facts: Mapping[str, Any]) -> None:
        """Make the loss; ``facts`` are values for arguments that the config leaves out.

        Raises:
            ConfigError: Unknown loss or argument, with the nearest names.
        """
        self.loss, self.schedules = build_loss(self.where, self.arguments, facts)
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

    def run(self, *activations: Any, **context: Any) -> dict[str, Tensor]:
        """The unweighted loss by part, those parts only that have a weight.

        Raises:
            ConfigError: If the loss refuses what it gets.
        """
        try:
            value = self.loss(*activations, **context)
        except ValueError as error:  # shapes, label values: the loss does not know its key
            raise ConfigError(f'{self.where} on {self.called}: {error}') from error
        values = {WHOLE: value} if isinstance(value, Tensor) else dict(value)
        self._parts = tuple(values)
        return {part: values[part] for part in self.parts}

    def weigh(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted log entries, ``kd.loss_<name>`` or ``kd.loss_<name>_<part>``, of `run`'s."""
        return {
            f'kd.loss_{self.label(part)}': self.weights.now(part) * value
            for part, value in values.items()
        }

    def silence(self, activations: Any) -> dict[str, Tensor]:
        """Exact zeros under the same names, which reach everything that would be trained.

        DDP waits for a gradient of every parameter, be it zero.
        """
        reached = [p for p in self.parameters() if p.requires_grad] + list(trained(activations))
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
