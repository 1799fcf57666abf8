"""Feature regression."""

from torch import Tensor

from ..functional import mean_squared_difference, resize_labels
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_label_map, check_maps, check_same_channels


@MODELS.register_module()
class FitNetLoss(DistillLoss):
    """Mean squared difference of features, over all B * C_t * h * w entries (arXiv 1412.6550).

    The term's connector maps the student to the teacher's channels,
    ``connector=dict(type='Projection', bias=False)``. The usual weight is 10, but the value
    has the scale of the teacher's features: see the gradient ratio in the log.

    Args:
        valid_only: Count only pixels whose label is not ``ignore_index``, divide by their number
            times C_t.
        ignore_index: The ignored label.
    """

    def __init__(self, valid_only: bool = False, ignore_index: int = 255) -> None:
        super().__init__()
        self.valid_only, self.ignore_index = valid_only, ignore_index
        self.needs = ('labels',) if valid_only else ()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features that are not both (B, C_t, h, w).

        Raises:
            ShapeError: With both shapes.
        """
        check_maps('FitNetLoss', student, teacher)
        check_same_channels('FitNetLoss', student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features (B, C_t, h, w), labels (B, H, W) -> a scalar.

        Raises:
            ValueError: As `check`, or if ``valid_only`` and labels do not fit.
        """
        self.check(student, teacher)
        valid = None
        if self.valid_only:
            labels = check_label_map('FitNetLoss', labels, student)
            # (B, H, W) -> (B, h, w)
            valid = resize_labels(labels, student.shape) != self.ignore_index
        return mean_squared_difference(student, teacher, valid)
