"""Correlations of predictions, by sample and by class."""

from torch import Tensor

from ..functional.correlation import prediction_correlation
from ..registry import MODELS
from .batch_relation import BatchRelationLoss
from .checks import check_logits, check_positive


@MODELS.register_module()
class DISTLoss(BatchRelationLoss):
    """One minus the correlation of softened predictions, times ``T^2`` (DIST, arXiv 2205.10536).

    ``inter`` correlates the classes of a sample, ``intra`` a class over all samples: the images of
    a classifier, the pixels of a segmentor's batch. Both count 2 beside the student's own loss in
    the published recipes, with T = 1 on ImageNet and 4 on CIFAR-100.

    Args:
        temperature: T.
        skip_flat: Leave out of ``intra`` classes whose probability hardly varies, see
            :func:`kdmm.functional.prediction_correlation`.
        scope: ``'local'`` or ``'global'``, see `kdmm.losses.BatchRelationLoss`.
    """

    parts = ('inter', 'intra')

    def __init__(
        self, temperature: float = 1.0, skip_flat: bool = False, scope: str = 'local'
    ) -> None:
        super().__init__(scope)
        check_positive(temperature=temperature)
        self.temperature, self.skip_flat = temperature, skip_flat

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits that are not both (B, K) or (B, K, h, w), K of 2 or more.

        Raises:
            ShapeError: With both shapes.
        """
        check_logits(self.name, student, teacher, (2, 4))

    def rows_in(self, features: Tensor) -> int:
        """Count the samples: images or pixels."""
        return features.numel() // features.shape[1]

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) or (B, K, h, w) -> two scalars.

        Raises:
            ShapeError: As `check`, or as `kdmm.losses.BatchRelationLoss.compared`.
        """
        inter, intra = prediction_correlation(
            *self.compared(student, teacher), self.temperature, self.skip_flat
        )
        return dict(inter=inter, intra=intra)
