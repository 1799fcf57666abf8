"""What ``kd.type='Cohort'`` builds."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdmm.distillers.attach import attach
from kdmm.distillers.cohort.objective import Cohort
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.registry import MODELS

_KEYS = [name for name in inspect.signature(Cohort).parameters if name not in ('student', 'config')]


class Companion:
    """Mixed into the student's class: it is trained with its peers."""

    kd: Cohort | None

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """As the student's own; in mode ``'loss'`` that of the whole cohort."""
        own = super().forward  # type: ignore[misc]
        if mode != 'loss' or self.kd is None:
            return own(inputs, data_samples, mode)
        return self.kd(lambda images: own(images, data_samples, 'loss'), inputs, data_samples)


@MODELS.register_module(name='Cohort')
def cohort(student: Mapping[str, Any], **options: Any) -> nn.Module:
    """Train networks together, without a teacher (DML, arXiv 1706.00384; MCL, arXiv 2104.12565).

    The result is the student, as with `distill`: same class, same parameter names, same prediction.
    The others are children of its child ``kd``.

    Args:
        student: Model config of a base library; the others are built from it unless given.
        options: See `Cohort`.

    Raises:
        ConfigError: Whatever is wrong with the section.
    """
    refuse_unknown('kd', options, _KEYS)
    if isinstance(student, nn.Module):
        raise ConfigError('kdmm.Cohort: expected the config of a model, got a built one')
    return attach(student, Companion, lambda model: Cohort(model, student, **options))
