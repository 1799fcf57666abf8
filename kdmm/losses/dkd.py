"""Decoupled knowledge distillation."""

from torch import Tensor

from kdmm.errors import ShapeError

from ..functional.divergence import decoupled_kl
from ..registry import MODELS
from .base import DistillLoss
from .checks import LabelGuard, check_logits, check_positive


@MODELS.register_module()
class DKDLoss(LabelGuard, DistillLoss):
    """KL(teacher || student) of a classifier in two parts, times ``T^2`` (DKD, arXiv 2203.08679).

    ``target`` compares the probability of the label's class, ``others`` the distribution over the
    other classes. With weights 1 and ``1 - p_t(label)`` of each sample their sum would be logit KD;
    the method gives ``others`` a weight that does not depend on the teacher's confidence. Published
    with ``target`` 1, T = 4 and ``others`` between 0.5 and 8, by pair.

    Args:
        temperature: T.
        ignore_index: Label of images that do not count.
    """

    needs = ('labels',)
    parts = ('target', 'others')

    def __init__(self, temperature: float = 4.0, ignore_index: int = -1) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature, self.ignore_index = temperature, ignore_index

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits that are not both (B, K), K of 2 or more.

        Raises:
            ShapeError: With both shapes.
        """
        check_logits('DKDLoss', student, teacher, (2,))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Logits (B, K), labels (B,) int64 -> two scalars.

        Raises:
            ValueError: As `check`; if labels are not one class an image; or (on the first batch; on
                CPU on every batch) if a label is neither a class nor ignored.
        """
        self.check(student, teacher)
        if labels.shape != student.shape[:1] or labels.is_floating_point():
            raise ShapeError(
                'DKDLoss takes one class an image, integers (B,)',
                'labels',
                student=student,
                labels=labels,
            )
        self.num_classes = student.shape[1]
        self._check_labels_once(labels)
        target, others = decoupled_kl(student, teacher, labels, self.temperature, self.ignore_index)
        return dict(target=target, others=others)
