"""Logit distillation."""

from typing import Any, ClassVar

from torch import Tensor, nn

from ..functional import kl_divergence, resize_labels
from ..registry import MODELS
from .checks import check_label_map, check_maps


@MODELS.register_module()
class KDLoss(nn.Module):
    """Per-pixel KL(teacher || student) of the logits, times ``tau^2`` (arXiv 1503.02531).

    The mean is over all B * h * w pixels, ignored and padded ones included, as CIRKD's code does;
    ``valid_only`` leaves ignored pixels out of the sum and the mean.

    Args:
        tau: Temperature.
        valid_only: Count only pixels whose label is not ``ignore_index``.
        ignore_index: The ignored label.
    """

    needs: tuple[str, ...] = ()
    stateful: ClassVar[bool] = False

    def __init__(self, tau: float = 1.0, valid_only: bool = False, ignore_index: int = 255) -> None:
        super().__init__()
        self.tau, self.valid_only, self.ignore_index = tau, valid_only, ignore_index
        self.needs = ('labels',) if valid_only else ()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits (B, K, h, w) or (B, K) that cannot be compared.

        Raises:
            ValueError: If class counts or resolutions differ, or there is only one channel, whose
                softmax is constant (a binary head with sigmoid).
        """
        student, teacher = _as_maps(student, teacher)
        check_maps('KDLoss', student, teacher, channels=True)
        if student.shape[1] == 1:
            raise ValueError(
                f'KDLoss compares softmax distributions over classes, but the logits have one '
                f'channel: {tuple(student.shape)}. Give the head out_channels=2, not a sigmoid'
            )

    def forward(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Student and teacher logits (B, K, h, w) or (B, K), labels (B, H, W) -> a scalar.

        Raises:
            ValueError: As `check`, or if ``valid_only`` and labels do not fit.
        """
        self.check(student, teacher)
        student, teacher = _as_maps(student, teacher)
        valid = None
        if self.valid_only:
            labels = check_label_map('KDLoss', labels, student)
            valid = resize_labels(labels, student.shape) != self.ignore_index
        return kl_divergence(student, teacher, self.tau, valid=valid)


def _as_maps(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim == teacher.ndim == 2:  # a classifier's: maps of one pixel
        return student[..., None, None], teacher[..., None, None]
    return student, teacher
