"""Relational knowledge distillation."""

from typing import ClassVar

from torch import Tensor

from kdmm.errors import ConfigError

from ..functional.batch_geometry import batch_angles, batch_distances
from ..registry import MODELS
from .batch_relation import BatchRelationLoss


@MODELS.register_module()
class RKDLoss(BatchRelationLoss):
    """Smooth L1 of distances and of angles within the batch (RKD, arXiv 1904.05068).

    Channels may differ. The published weights are 25 for ``distance`` and 50 for ``angle``, both
    means over all pairs and triples, so they hold at any batch size. Of two images the loss is
    constant: it takes three. Angles are as many as triples of images: the time of ``'angle'`` grows
    with the cube of the images that are compared, those of all processes in the global scope.

    Args:
        normalize: Scale features to unit length first, as MMRazor's code does by default; the
            public comparisons with these weights do not.
        scope: ``'local'`` or ``'global'``, see `kdmm.losses.BatchRelationLoss`.
        chunk: Apexes of a block of angles; None: automatic.
    """

    parts = ('distance', 'angle')
    least_images: ClassVar[int] = 3

    def __init__(
        self, normalize: bool = False, scope: str = 'local', chunk: int | None = None
    ) -> None:
        super().__init__(scope)
        if chunk is not None and chunk < 1:
            raise ConfigError(key='chunk', got=chunk, expected='at least 1, or None')
        self.normalize, self.chunk = normalize, chunk

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Features (B, ...) and (B, ...) -> two scalars.

        Raises:
            ShapeError: As `kdmm.losses.BatchRelationLoss.compared`.
        """
        pair = self.compared(student, teacher)
        return dict(
            distance=batch_distances(*pair, self.normalize),
            angle=batch_angles(*pair, self.normalize, self.chunk),
        )
