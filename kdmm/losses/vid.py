"""Variational information distillation."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdmm.errors import ConfigError

from ..functional import promote
from ..functional.difference import gaussian_nll
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_channels, check_maps, check_positive, layers

#: Least variance, as in the authors' code.
LEAST_VARIANCE = 1e-5


class _Regressor(nn.Module):
    """Gaussian of the teacher's features given the student's: its mean a map, its variance not.

    Args:
        student_channels: Of the map that is read.
        teacher_channels: Of the map that is predicted.
        variance: At the start, of every channel.
    """

    def __init__(self, student_channels: int, teacher_channels: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        # softplus(raw) + LEAST_VARIANCE = variance
        raw = math.log(math.expm1(variance - LEAST_VARIANCE))
        self.raw_variance = nn.Parameter(torch.full((teacher_channels,), raw))

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C_s, h, w) -> mean (B, C_t, h, w), and variance (C_t,) in at least float32."""
        return self.mean(student), F.softplus(promote(self.raw_variance)) + LEAST_VARIANCE


@MODELS.register_module()
class VIDLoss(DistillLoss):
    """Likelihood of the teacher's features under a Gaussian regression (VID, arXiv 1904.05835).

    For each tap three 1x1 convolutions predict the teacher's map from the student's, and every
    channel has a variance; all are trained with the student, and are in no file of it. The loss,
    the sum over taps of the mean negative log-likelihood without its constant, may be negative. The
    published weight is 1. Maps of different sizes need ``connector=dict(type='Pool')``.

    The mean over taps and channels of the variance is in the log.

    Args:
        student_channels: Of the student's map, or of each of several; filled in by the Distiller.
        teacher_channels: Of the teacher's.
        variance: At the start.
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        variance: float = 5.0,
    ) -> None:
        super().__init__()
        check_positive(variance=variance)
        if variance <= LEAST_VARIANCE:
            raise ConfigError(
                key='variance', got=variance, expected=f'a number above {LEAST_VARIANCE}'
            )
        self.student_channels = _each(student_channels)
        self.teacher_channels = _each(teacher_channels)
        pairs = zip(self.student_channels, self.teacher_channels, strict=True)
        self.regressors = nn.ModuleList(
            _Regressor(mine, theirs, variance) for mine, theirs in pairs
        )

    def check(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> None:
        """Refuse maps (B, C_s, h, w) and (B, C_t, h, w), or tuples of them, that do not fit.

        Raises:
            ShapeError: If the numbers of maps, batch sizes or resolutions differ, or channels are
                not those that the loss was built for.
        """
        pairs = layers('VIDLoss', student, teacher, len(self.regressors))
        for (mine, theirs), *channels in zip(
            pairs, self.student_channels, self.teacher_channels, strict=True
        ):
            check_maps('VIDLoss', mine, theirs)
            check_channels('VIDLoss', mine, theirs, (channels[0], channels[1]))

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Maps (B, C_s, h, w) and (B, C_t, h, w), or tuples of them -> a scalar.

        Raises:
            ShapeError: As `check`.
        """
        self.check(student, teacher)
        values, variances = [], []
        pairs = layers('VIDLoss', student, teacher)
        for regressor, (mine, theirs) in zip(self.regressors, pairs, strict=True):
            mean, variance = regressor(mine)  # (B, C_s, h, w) -> (B, C_t, h, w), (C_t,)
            values.append(gaussian_nll(mean, theirs, variance))
            variances.append(variance.detach())
        self.logged = dict(variance=torch.cat(variances).mean())
        return torch.stack(values).sum()


def _each(channels: int | Sequence[int]) -> tuple[int, ...]:
    return (channels,) if isinstance(channels, int) else tuple(channels)
