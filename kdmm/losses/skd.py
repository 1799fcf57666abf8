"""Structured knowledge distillation, pair-wise term."""

from torch import Tensor

from kdmm.errors import ConfigError

from ..functional import pairwise_similarity_mse
from ..functional.gram import windows
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_choice, check_directions, check_maps, check_positions


@MODELS.register_module()
class SKDLoss(DistillLoss):
    """Squared difference of pixel-pixel cosines within each image (SKD, arXiv 1903.04197).

    The mean is over B * n^2 pairs of max-pooled nodes; channels may differ. The default is the form
    in CIRKD's comparison (2 x 2 windows: 2048 nodes at 64 x 128; weight 10). The method's own code
    leaves 4 to 9 nodes, takes their lengths as constants and reads an intermediate feature:
    ``scale=0.5, detach_norm=True``, weight 1.

    Args:
        patch: Side of the pooling windows in pixels; 1: every pixel is a node.
        scale: Side of the windows as a share of the map's, instead of ``patch``.
        detach_norm: No gradient through the nodes' lengths.
        form: ``'auto'``, ``'naive'``, ``'streamed'`` or ``'gram'``; see
            :func:`kdmm.functional.pairwise_similarity_mse`.
        chunk: Rows of a streamed block; None: automatic.
    """

    blockwise = True

    def __init__(
        self,
        patch: int = 2,
        scale: float | None = None,
        detach_norm: bool = False,
        form: str = 'auto',
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        check_choice('form', form, ('auto', 'naive', 'streamed', 'gram'))
        if patch < 1:
            raise ConfigError(key='patch', got=patch, expected='at least 1')
        if scale is not None and not 0 < scale <= 1:
            raise ConfigError(key='scale', got=scale, expected='a share in (0, 1], or None')
        self.patch, self.scale, self.detach_norm = patch, scale, detach_norm
        self.form, self.chunk = form, chunk

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features (B, C_s, h, w) and (B, C_t, h, w) that cannot be compared.

        Raises:
            ValueError: If batch sizes or resolutions differ, or nothing could change the cosines:
                the maps are pooled to one node, or the student has one channel.
        """
        check_maps('SKDLoss', student, teacher)
        check_directions('SKDLoss', student, teacher, student.shape[1])
        check_positions('SKDLoss', student, teacher, windows(student, self.patch, self.scale))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features (B, C_s, h, w) and (B, C_t, h, w) -> a scalar.

        Raises:
            ValueError: As `check`.
        """
        self.check(student, teacher)
        return pairwise_similarity_mse(
            student, teacher, self.patch, self.scale, self.detach_norm, self.form, self.chunk
        )
