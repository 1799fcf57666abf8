"""Correlation congruence."""

from torch import Tensor, nn

from ..functional.correlation import neighbour_congruence
from ..registry import MODELS
from .batch_relation import BatchRelationLoss
from .checks import check_count
from .embedding import check_pooled


@MODELS.register_module()
class CCLoss(BatchRelationLoss):
    """Products of the differences of neighbours in the batch (CC, arXiv 1904.01802).

    As in the authors' code and the public comparison (weight 0.02): both networks' pooled features
    go through a linear layer each, both of which are trained with the student, and nothing is
    normalised. So the value depends on the order of the batch, and falls where the embeddings
    shrink, whatever the student does: see their lengths ``student_norm`` and ``teacher_norm`` in
    the log. It is here for comparison.

    A batch of B images has B - 1 pairs of neighbours on each process; there is no global scope.

    Args:
        student_channels: Of the student's features; filled in by the Distiller.
        teacher_channels: Of the teacher's.
        dim: Length of an embedding.
    """

    def __init__(self, student_channels: int, teacher_channels: int, dim: int = 128) -> None:
        super().__init__()
        check_count(dim=dim)
        self.student_embedding = nn.Linear(student_channels, dim)
        self.teacher_embedding = nn.Linear(teacher_channels, dim)

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features that are not pooled, (B, C_s) and (B, C_t).

        Raises:
            ShapeError: With both shapes.
        """
        check_pooled([student, teacher])
        super().check(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features (B, C_s) and (B, C_t) -> a scalar.

        Raises:
            ShapeError: As `check`, or as `kdmm.losses.BatchRelationLoss.compared`.
        """
        student, teacher = self.compared(student, teacher)
        mine, theirs = self.student_embedding(student), self.teacher_embedding(teacher)  # (B, dim)
        self.logged = dict(student_norm=_mean_length(mine), teacher_norm=_mean_length(theirs))
        return neighbour_congruence(mine, theirs)


def _mean_length(embeddings: Tensor) -> Tensor:
    return embeddings.detach().float().norm(dim=1).mean()
