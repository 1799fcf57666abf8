"""`BatchRelationLoss`, the base of losses that compare the images of a batch with each other."""

from typing import ClassVar

from torch import Tensor

from kdmm.errors import ShapeError

from ..functional import promote, world_size
from ..functional.collective import gather_with_grad
from .base import DistillLoss
from .checks import check_choice


class BatchRelationLoss(DistillLoss):
    """Base of losses of relations between the images of a batch.

    Args:
        scope: ``'local'``: the images of this process, as published. ``'global'``: of all
            processes, each of which computes the whole loss and sends gradients to the others'
            images: W processes with batch B learn what one with W * B would.

    Raises:
        ConfigError: For another scope.
    """

    least_images: ClassVar[int] = 2

    def __init__(self, scope: str = 'local') -> None:
        super().__init__()
        check_choice('scope', scope, ('local', 'global'))
        self.name, self.scope = type(self).__name__, scope
        self._checked = False

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features that are not (B, ...) of the same images; their sizes may differ.

        Raises:
            ShapeError: With both shapes.
        """
        if min(student.ndim, teacher.ndim) < 2:
            raise ShapeError(
                f'{self.name} takes features (B, ...)', student=student, teacher=teacher
            )
        if student.shape[0] != teacher.shape[0]:
            raise ShapeError(
                f'{self.name}: the numbers of images differ',
                'images',
                student=student,
                teacher=teacher,
            )

    def compared(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the images that are compared, those of the scope.

        Args:
            student: (B, ...).
            teacher: (B, ...); it gets no gradient.

        Returns:
            (G, ...) and (G, ...), in at least float32, with G = B or, in the global scope, the sum
            of all ranks' B.

        Raises:
            ShapeError: As `check`; or if the first batch has fewer than `least_images`. What is
                left of a data set may be less, and gives a constant.
        """
        self.check(student, teacher)
        pair = promote(student), promote(teacher.detach())
        if self.scope == 'global':
            # (B, ...) -> (G, ...), rank by rank
            pair = gather_with_grad(pair[0]), gather_with_grad(pair[1])
        if self.rows_in(pair[0]) < self.least_images and not self._checked:
            raise ShapeError(
                f'{self.name} compares the images of a batch with each other, and is constant for '
                f'fewer than {self.least_images}',
                'few images',
                'Give larger batches.',
                student=student,
                teacher=teacher,
            )
        self._checked = True
        return pair

    def least_batch(self, rows: int) -> int:
        """As the base; in the global scope the images of all ranks count."""
        ranks = world_size() if self.scope == 'global' else 1
        return super().least_batch(rows * ranks)
