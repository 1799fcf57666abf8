"""Neuron selectivity transfer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..functional.gram import channel_map_mmd
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_maps, check_positions, layers


@MODELS.register_module()
class NSTLoss(DistillLoss):
    """Squared MMD between the networks' sets of channel maps (NST, arXiv 1707.01219).

    The polynomial kernel ``<a, b>^2`` of unit maps; channels may differ. With several taps,
    ``on=['stage1', 'stage2']``, the sum over them; the published weight is 50. Maps of different
    sizes need ``connector=dict(type='Pool')``.
    """

    def check(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> None:
        """Refuse maps (B, C_s, h, w) and (B, C_t, h, w), or tuples of them, that do not fit.

        Raises:
            ShapeError: If the numbers of maps, batch sizes or resolutions differ, or maps have one
                pixel, whose unit vector is constant.
        """
        for mine, theirs in layers('NSTLoss', student, teacher):
            check_maps('NSTLoss', mine, theirs)
            check_positions('NSTLoss', mine, theirs)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Maps (B, C_s, h, w) and (B, C_t, h, w), or tuples of them -> a scalar.

        Raises:
            ShapeError: As `check`.
        """
        self.check(student, teacher)
        pairs = layers('NSTLoss', student, teacher)
        return torch.stack([channel_map_mmd(mine, theirs) for mine, theirs in pairs]).sum()
