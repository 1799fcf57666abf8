"""Double similarity distillation: two independent losses."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdmm.errors import ShapeError

from ..functional import path_differences
from ..functional.correlation import class_correlation_mse
from ..registry import MODELS
from ..renamed import renamed
from .base import DistillLoss
from .checks import check_choice, check_maps, check_positions, check_positive


@MODELS.register_module()
class PSDLoss(DistillLoss):
    """Squared difference of attention changes between layers (DSD, arXiv 2107.08591).

    A term on several taps of one resolution, the deepest last:
    ``on=['early', 'pixels', 'logits']``.
    Channels may differ. The usual weight is 1000 with ``'mean'`` at 64 x 128. The mean is at most
    4 / (h w), so that weight belongs to one resolution; with ``'image'`` it is 0.122 at every one.

    The published code, where the student has no auxiliary head, puts its logits in the place of the
    auxiliary map; here both networks give the same number of taps and none twice.

    Args:
        reduction: ``'mean'`` over pairs of layers and B * h * w pixels, or ``'image'``: sum over
            pixels, mean over pairs and images.
    """

    def __init__(self, reduction: str = 'mean') -> None:
        super().__init__()
        check_choice('reduction', reduction, ('mean', 'image'))
        self.reduction = reduction

    def check(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Refuse tuples of maps (B, C_i, h, w) that cannot be compared.

        Raises:
            ValueError: If the networks give different numbers of maps, fewer than two, one map
                twice, maps of different resolutions or numbers of images, or of one pixel, whose
                unit attention is constant.
        """
        if isinstance(student, Tensor) or isinstance(teacher, Tensor):
            raise ShapeError(
                'PSDLoss compares layers, so it takes a sequence of maps',
                'layers',
                student=student,
                teacher=teacher,
            )
        pair: dict[str, Any] = dict(student=student, teacher=teacher)
        if len(student) != len(teacher):
            raise ShapeError('PSDLoss: the numbers of maps differ', 'form', **pair)
        if len(student) < 2:
            raise ShapeError(
                'PSDLoss compares layers, so it takes two maps or more', 'layers', **pair
            )
        for side, maps in pair.items():
            if len({id(x) for x in maps}) < len(maps):
                raise ShapeError(f'PSDLoss: the {side} gives one map twice', 'layers', **pair)
            if len({x.shape[2:] for x in maps}) > 1:
                raise ShapeError(
                    f'PSDLoss: the resolutions of the {side} differ',
                    'form',
                    'Give layers of one stride.',
                    **pair,
                )
        for mine, theirs in zip(student, teacher, strict=True):
            check_maps('PSDLoss', mine, theirs)
            check_positions('PSDLoss', mine, theirs)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h, w) and (B, D_i, h, w), i = 1..m -> a scalar.

        Raises:
            ValueError: As `check`.
        """
        self.check(student, teacher)
        return path_differences(student, teacher, self.reduction)


@MODELS.register_module()
@renamed(tau='temperature')
class CSDLoss(DistillLoss):
    """Class-class correlation, compared by squared difference (DSD, arXiv 2107.08591).

    The mean is over B * K^2; no factor ``T^2``. The usual weight is 10, at which the term is
    numerically inert unless logits are very peaky (4e-8 for a margin of 10 at 64 x 128): see
    its gradient ratio in the log.

    Args:
        temperature: T of the softmax over space.
        pool: Window of the average pooling before it.
    """

    def __init__(self, temperature: float = 4.0, pool: int = 2) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature, self.pool = temperature, pool

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits that are not both (B, K, h, w).

        Raises:
            ValueError: If batch sizes, class counts or resolutions differ, there is one class, or
                the pooled logits are of one pixel, whose softmax over space is constant.
        """
        check_maps('CSDLoss', student, teacher, channels=True)
        if student.shape[1] == 1:
            raise ShapeError(
                'CSDLoss compares how classes correlate with each other, but the logits have one '
                'class',
                'one class',
                'Give logits of two classes or more.',
                student=student,
                teacher=teacher,
            )
        check_positions('CSDLoss', student, teacher, (self.pool, self.pool))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (B, K, h, w) -> a scalar.

        Raises:
            ValueError: As `check`.
        """
        self.check(student, teacher)
        return class_correlation_mse(student, teacher, self.temperature, self.pool)
