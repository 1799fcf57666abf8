"""The weight of the student's own loss, and a student that learns without that loss."""

from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

from mmengine.logging import print_log
from torch import nn

from kdmm.distillers.gradient_ratio import task_loss
from kdmm.distillers.loss_weights import LossWeights, is_auto
from kdmm.distillers.probe import Size, reached_parameters
from kdmm.errors import ConfigError, listed
from kdmm.losses.base import WHOLE
from kdmm.taps import Taps

#: Name in the log of the student's own loss without its weight; nothing adds it up.
LOGGED = 'kd.task'


class TaskWeight(LossWeights):
    """Weight of the student's own loss, ``kd.task``.

    With the number 0 the loss is not computed, and no label is read unless a term needs it: the
    student's plain forward pass runs. What no term then trains, such as the head behind the last
    tap, is frozen by `freeze_untrained`. A schedule that comes to 0 leaves everything as it is: the
    loss is computed, and its gradient is exactly 0 there.

    Args:
        weight: A number or a schedule.

    Attributes:
        scheduled: Whether the weight may change.
        off: Whether it is the number 0.
        mode: Of the student's pass in training.

    Raises:
        ConfigError: If it is negative, measured, or a dict of parts.
    """

    def __init__(self, weight: Any = 1.0) -> None:
        parts = isinstance(weight, Mapping) and 'type' not in weight
        if parts or is_auto(weight) or isinstance(weight, str):
            raise ConfigError(
                'terms are measured by it' if is_auto(weight) else '',
                key='kd.task',
                got=weight,
                expected='a number or a schedule',
            )
        super().__init__(weight, 'kd.task')
        self.scheduled = isinstance(weight, Mapping)
        self.one = not self.scheduled and weight == 1
        self.off = not self.scheduled and weight == 0
        self.mode = 'loss'

    def weigh(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Multiply what MMEngine adds up; the sum without the weight is logged as `LOGGED`.

        Args:
            losses: The student's own losses; not read with the number 0.
        """
        if self.off:
            return {}
        weight = self.now(WHOLE)
        weighed = {
            name: _times(weight, value) if 'loss' in name else value
            for name, value in losses.items()
        }
        return {**weighed, LOGGED: task_loss(losses).detach()}

    def check(self, losses: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse terms that cannot be with this weight.

        Args:
            losses: The terms that are switched on, by name.

        Raises:
            ConfigError: If nothing is left to train, or a weight is measured by a loss that does
                not count.
        """
        if self.off and not losses:
            raise ConfigError(
                'and every weight in kd.losses is 0, so nothing trains the student',
                key='kd.task',
                got=0,
                fix='Give a term a weight, or leave kd.task out.',
            )
        if not self.is_zero():
            return
        for name, config in losses.items():
            for part, weight in _by_part(config.get('weight', 1.0)).items():
                if is_auto(weight):
                    raise ConfigError(
                        "it is a share of the gradient of the student's own loss, whose weight "
                        f'kd.task is 0{"" if self.off else " at the start"}',
                        key=f'kd.losses.{name}.weight{part}',
                        got=weight,
                        expected='a number or a schedule',
                    )

    def announce(self) -> None:
        """Log a weight other than 1, and warn where weight decay goes on while it is 0."""
        if self.one:
            return
        end = ' and is not computed' if self.off else ' at the start' if self.scheduled else ''
        print_log(f"kd.task: the student's own loss counts {self.describe()}{end}", 'current')
        if self.scheduled and 0 in self.schedules[WHOLE].ends():
            print_log(
                'kd.task: while it is 0, what no term trains (the head behind the last tap) has a '
                "gradient of 0, and the optimizer's weight decay and momentum still move it",
                'current',
                WARNING,
            )


def freeze_untrained(
    student: nn.Module, taps: Taps, size: Size | None, crop: Size | None
) -> tuple[list[str], str]:
    """Freeze what no term reaches, for a student without a loss of its own.

    A frozen parameter has no gradient, so that neither weight decay nor momentum moves it, and DDP
    does not wait for it.

    Args:
        student: Its parameters are changed in place.
        taps: All that terms read.
        size: (H, W) of a blank image; None chooses one.
        crop: (H, W) of the training images, where the student does not say it.

    Returns:
        Names of the parameters that were frozen, and the mode of the pass that reads the taps.
    """
    reached, mode = reached_parameters(student, taps, size, crop)
    frozen = []
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and name not in reached:
            parameter.requires_grad_(False)
            frozen.append(name)
    if frozen:
        print_log(
            f'kd.task: 0, and no term trains {listed(_modules_of(frozen))}: frozen as built. '
            'Figures of a validation that runs them say nothing; train them on the frozen rest '
            'afterwards (a linear probe)',
            'current',
            WARNING,
        )
    return frozen, mode


def _times(weight: Any, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [weight * item for item in value]
    return weight * value


def _by_part(weight: Any) -> dict[str, Any]:
    if isinstance(weight, Mapping) and 'type' not in weight:
        return {f'.{part}': value for part, value in weight.items()}
    return {'': weight}


def _modules_of(names: Iterable[str]) -> Sequence[str]:
    """Modules of parameters, each once."""
    return list(dict.fromkeys(name.rpartition('.')[0] or name for name in names))
