"""Channel-wise distillation."""

from torch import Tensor

from kdmm.errors import ConfigError

from ..functional.divergence import channel_kl
from ..registry import MODELS
from ..renamed import renamed
from .base import DistillLoss
from .checks import check_choice, check_maps, check_positions, check_positive, check_same_channels


@MODELS.register_module()
@renamed(tau='temperature')
class CWDLoss(DistillLoss):
    """KL(teacher || student) of each channel's distribution over space, times ``T^2`` (CWD).

    arXiv 2011.13256. The mean is over the B * C channels that are compared. Features and logits are
    two terms; features of other channels need ``connector=dict(type='Projection', bias=False)``.

    CIRKD's code divides by the student's channels *before* the projection: its weight 50 on
    features of 128 channels, projected to 256, is 100 here. On logits (weight 3) there is no
    difference.

    Args:
        temperature: T.
        normalizer: ``'compared'``: divide by the compared channels. ``'student'``: by
            ``tap_channels``, as CIRKD's code does.
        tap_channels: The student's channels before the connector; read by ``'student'`` only.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        normalizer: str = 'compared',
        tap_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        check_choice('normalizer', normalizer, ('compared', 'student'))
        if normalizer == 'student' and not tap_channels:
            raise ConfigError(
                key='tap_channels',
                got=tap_channels,
                expected="the channels of the student's tap, for normalizer='student'",
            )
        self.temperature, self.normalizer, self.tap_channels = temperature, normalizer, tap_channels

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse maps that are not both (B, C, h, w).

        Raises:
            ShapeError: With both shapes; or if the maps are of one pixel, whose softmax over space
                is constant.
        """
        check_maps('CWDLoss', student, teacher)
        check_same_channels('CWDLoss', student, teacher)
        check_positions('CWDLoss', student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features or logits (B, C, h, w) -> a scalar.

        Raises:
            ValueError: As `check`.
        """
        self.check(student, teacher)
        loss = channel_kl(student, teacher, self.temperature)
        if self.normalizer == 'student' and self.tap_channels:
            loss = loss * (student.shape[1] / self.tap_channels)
        return loss
