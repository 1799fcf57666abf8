"""Similarity-preserving distillation."""

from torch import Tensor

from ..functional.batch_similarity import batch_similarity_mse
from ..registry import MODELS
from .batch_relation import BatchRelationLoss
from .checks import check_choice


@MODELS.register_module()
class SPLoss(BatchRelationLoss):
    """Squared difference of similarities within the batch (SP, arXiv 1907.09682).

    Features are flattened, so channels and resolutions may differ. The published weight, 3000,
    multiplies the mean over B * B pairs at B = 64, a value that falls as 1 / B: with ``'rows'`` it
    is 3000 / 64 = 46.9 at any batch size.

    Args:
        reduction: ``'mean'`` over B * B pairs, or ``'rows'``: the sum over an image's pairs, mean
            over images.
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
        return batch_similarity_mse(*self.compared(student, teacher), self.reduction)
