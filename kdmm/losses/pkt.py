"""Probabilistic knowledge transfer."""

from torch import Tensor

from ..functional.batch_similarity import batch_probability_kl
from ..registry import MODELS
from .batch_relation import BatchRelationLoss
from .checks import check_choice


@MODELS.register_module()
class PKTLoss(BatchRelationLoss):
    """KL(teacher || student) of each image's distribution over the batch (PKT, arXiv 1803.10837).

    Channels may differ. The published weight, 30000, multiplies the mean over B * B pairs at B =
    64, a value that falls as 1 / B: with ``'rows'`` it is 30000 / 64 = 469 at any batch size.

    Args:
        reduction: ``'mean'`` over B * B pairs, or ``'rows'``: KL of an image, mean over images.
        scope: ``'local'`` or ``'global'``, see `kdmm.losses.BatchRelationLoss`.
    """

    def __init__(self, reduction: str = 'mean', scope: str = 'local') -> None:
        super().__init__(scope)
        check_choice('reduction', reduction, ('mean', 'rows'))
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features (B, ...) and (B, ...) -> a scalar.

        Raises:
            ShapeError: As `kdmm.losses.BatchRelationLoss.compared`.
        """
        return batch_probability_kl(*self.compared(student, teacher), self.reduction)
