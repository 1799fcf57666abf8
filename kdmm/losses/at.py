"""Attention transfer."""

from torch import Tensor

from ..functional import attention_transfer
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_choice, check_maps, check_positions


@MODELS.register_module()
class ATLoss(DistillLoss):
    """Squared difference of unit attention maps (AT, arXiv 1612.03928); channels may differ.

    The usual weight is 10000 with ``'mean'`` at 64 x 128. The mean is at most 2 / (h w), so that
    weight belongs to one resolution; with ``'image'`` it is 1.22 at every resolution.

    Args:
        reduction: ``'mean'`` over B * h * w pixels, or ``'image'``: sum over pixels, mean over
            images.
    """

    def __init__(self, reduction: str = 'mean') -> None:
        super().__init__()
        check_choice('reduction', reduction, ('mean', 'image'))
        self.reduction = reduction

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features (B, C_s, h, w) and (B, C_t, h, w) that cannot be compared.

        Raises:
            ValueError: If batch sizes or resolutions differ, or the maps have one pixel, whose unit
                attention is constant.
        """
        check_maps('ATLoss', student, teacher)
        check_positions('ATLoss', student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features (B, C_s, h, w) and (B, C_t, h, w) -> a scalar.

        Raises:
            ValueError: As `check`.
        """
        self.check(student, teacher)
        return attention_transfer(student, teacher, self.reduction)
