"""Intra-class feature variation distillation."""

from torch import Tensor

from ..functional import centre_similarity_mse, resize_labels
from ..registry import MODELS
from .base import DistillLoss
from .checks import LabelGuard, check_directions, check_label_map, check_maps, check_positions


@MODELS.register_module()
class IFVDLoss(LabelGuard, DistillLoss):
    """Squared difference of each pixel's cosine with the centre of its class (IFVD, ECCV 2020).

    Centres are per image and class, with gradient; channels may differ. Ignored pixels add nothing
    but count in the denominator B * h * w, as in the published code. The usual weight is 20 (200 in
    the method's own code). See :func:`kdmm.functional.centre_similarity_mse`.

    Args:
        num_classes: K.
        ignore_index: The ignored label.
        valid_only: Divide by the number of labelled pixels instead.
    """

    needs = ('labels',)

    def __init__(self, num_classes: int, ignore_index: int = 255, valid_only: bool = False) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.valid_only = valid_only

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features (B, C_s, h, w) and (B, C_t, h, w) that cannot be compared.

        Raises:
            ValueError: If batch sizes or resolutions differ, or nothing could change the cosines:
                the maps have one pixel, or the student one channel.
        """
        check_maps('IFVDLoss', student, teacher)
        check_directions('IFVDLoss', student, teacher, student.shape[1])
        check_positions('IFVDLoss', student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Features (B, C_s, h, w) and (B, C_t, h, w), labels (B, H, W) -> a scalar.

        Raises:
            ValueError: As `check`, or (on the first batch; on CPU on every batch) if a label is
                neither a class nor ignored.
        """
        self.check(student, teacher)
        labels = check_label_map('IFVDLoss', labels, student)
        self._check_labels_once(labels)
        labels = resize_labels(labels, student.shape)
        return centre_similarity_mse(
            student, teacher, labels, self.num_classes, self.ignore_index, bool(self.valid_only)
        )
