"""`Distiller`: the student itself, with a distillation objective attached."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kdmm.config import KEYS
from kdmm.distillers.attach import attach, beside_a_total
from kdmm.distillers.objective import Distillation
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.registry import MODELS


class Distilled:
    """Mixed into the student's class: its training loss gains the terms of ``self.kd``."""

    kd: Distillation | None

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """As the student's own; in mode ``'loss'`` with the distillation terms added."""
        if mode != 'loss' or self.kd is None or not self.kd.terms:
            return super().forward(inputs, data_samples, mode)  # type: ignore[misc]
        with self.kd.student_taps.record() as student:
            losses = super().forward(inputs, data_samples, mode)  # type: ignore[misc]
        return {**beside_a_total(losses), **self.kd(student, inputs, data_samples, losses)}


@MODELS.register_module(name='Distiller')
def distill(
    student: Mapping[str, Any] | nn.Module,
    teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    taps: Mapping[str, Any] | None = None,
    losses: Mapping[str, Mapping[str, Any]] | None = None,
    probe_size: tuple[int, int] | None = None,
    measure: bool = True,
    crop_size: tuple[int, int] | None = None,
    **unknown: Any,
) -> nn.Module:
    """Attach a distillation objective to a student.

    The result is the student: same class (a subclass made here), same parameter names, same
    prediction. Its training loss has the terms added, and one child, ``kd``, owns what they keep.
    Configs reach it as ``kdmm.Distiller`` or, through ``tools/train.py``, as the section ``kd``.

    Args:
        student: Model config of the base library, or a built model.
        teacher: See `Teacher`; a list for several.
        taps: Tap name to ``module.path.in|.out``, or ``dict(student=, teacher=)`` of two.
        losses: Term name to ``dict(type=, on=, weight=, ...)``; see `Term`.
        probe_size: See `Distillation`.
        measure: See `Distillation`.
        crop_size: See `Distillation`; ``tools/train.py`` reads it off the training pipeline.
        **unknown: Refused, with the nearest known keys.

    Raises:
        ConfigError: Whatever is wrong with the section, found before training starts.
    """
    refuse_unknown('kd', unknown, KEYS)
    for key, value in dict(teacher=teacher, taps=taps, losses=losses).items():
        if value is None:
            raise ConfigError(f'kd.{key}: missing')

    def build(model: nn.Module) -> Distillation:
        return Distillation(model, teacher, taps, losses, probe_size, measure, crop_size)  # type: ignore[arg-type]

    return attach(student, Distilled, build)
