"""HSSAKD's teacher: branches trained on the joint task, alone or with their classifier."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from kdmm.distillers.hssakd.frame import SelfSupervised
from kdmm.distillers.hssakd.joint import joint_cross_entropy
from kdmm.errors import ConfigError
from kdmm.utils.models import pretrained_init


class TeacherTraining(SelfSupervised):
    """CE(p, y) on the unrotated rows and, for each branch, CE(q_l, joint label) on all.

    Args:
        student: The future teacher.
        random: Let branches be trained behind a frozen classifier of random weights (smoke tests).
        options: See `SelfSupervised`. The only part is ``joint``.
    """

    parts: ClassVar[tuple[str, ...]] = ('joint',)
    results = ('',)  # the branches teach the next run

    def __init__(self, student: nn.Module, random: bool = False, **options: Any) -> None:
        super().__init__(student, **options)
        self.random = random

    def losses(self, views: Tensor, samples: Sequence[Any], labels: Tensor) -> dict[str, Tensor]:
        """As `SelfSupervised`."""
        sight = self.viewer(views, samples)
        self.remember(sight.joint, labels)
        return {**sight.losses, **self.weighed('joint', joint_cross_entropy(sight.joint, labels))}


class FrozenTeacherTraining(TeacherTraining):
    """The same behind a classifier that is frozen in eval mode; its CE is a constant in the log."""

    trains_student = False

    def __init__(self, student: nn.Module, random: bool = False, **options: Any) -> None:
        super().__init__(student, random, **options)
        student.requires_grad_(False)
        whole, backbone, head = (
            pretrained_init(getattr(part, 'init_cfg', None)) is not None
            for part in (student, student.backbone, student.head)
        )
        self.initialised = whole or (backbone and head)

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse branches behind weights that nobody trained."""
        if not (loaded or self.random or self.initialised):
            raise ConfigError(
                'load_from: missing. Branches with kd.joint=False are trained behind a frozen '
                'classifier, and this one has random weights. Name a conventionally trained '
                'checkpoint (load_from=...), train both together (kd.joint=True), or ask for '
                'random weights in a smoke test (kd.random=True)'
            )
