"""What ``kd.type='MCLMoCo'`` builds."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdmm.distillers.attach import attach
from kdmm.distillers.mcl_moco.objective import MoCoCohort
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.registry import MODELS

_KEYS = [
    key for key in inspect.signature(MoCoCohort).parameters if key not in ('student', 'config')
]


class Companion:
    """Mixed into MoCo's class: its training loss is that of its cohort."""

    kd: MoCoCohort | None

    def loss(self, inputs: Any, data_samples: Any = None, **kwargs: Any) -> Any:
        """The cohort's losses; MoCo's own where there is none."""
        if self.kd is None:
            return super().loss(inputs, data_samples, **kwargs)  # type: ignore[misc]
        return self.kd(self, inputs)


@MODELS.register_module(name='MCLMoCo')
def mcl_moco(student: Mapping[str, Any], **options: Any) -> nn.Module:
    """Pretrain MoCos that learn from each other (MCL on MoCo, arXiv 2104.12565).

    The result is the first of them: MMPretrain's ``MoCo`` with its own parameter names, queue and
    key encoder. The others are children of its child ``kd``. Its ``loss`` is the cohort's; MoCo's
    own cross entropy is the first summand of VCL.

    Args:
        student: Model config of MMPretrain's MoCo; the others are built from it unless given.
        options: See `MoCoCohort`.

    Raises:
        ConfigError: Whatever is wrong with the section.
    """
    refuse_unknown('kd', options, _KEYS)
    if isinstance(student, nn.Module):
        raise ConfigError('kdmm.MCLMoCo: expected the config of a model, got a built one')
    return attach(student, Companion, lambda model: MoCoCohort(model, student, **options))
