"""Teacher training of HSSAKD: branches on the joint task, alone or with their classifier."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from kdmm.distillers.hssakd.branches import joint_cross_entropy
from kdmm.distillers.hssakd.objective import SelfSupervised, check_flags
from kdmm.distillers.objective import register_objective
from kdmm.errors import ConfigError
from kdmm.utils.models import pretrained_init


@register_objective('HSSAKDTeacher')
class TeacherTraining(SelfSupervised):
    """Train the auxiliary branches of a future teacher (HSSAKD, arXiv 2109.03075, section III-B).

    CE(p, y) on the unrotated rows and, for each branch, CE(q_l, joint label) on all. The branches
    are in the checkpoint's entry ``kdmm``, where `StudentTraining` finds them.

    Args:
        student: The future teacher, an MMPretrain classifier.
        joint: Train the classifier together with its branches (the paper's HSSAKD*). False: the
            classifier is a trained one, frozen in eval mode (HSSAKD); its CE is a constant in the
            log.
        random: Let branches be trained behind a frozen classifier of random weights (smoke tests).
        options: See `SelfSupervised`. The only part is ``joint``.
    """

    parts: ClassVar[tuple[str, ...]] = ('joint',)
    results = ('',)  # the branches teach the next run

    def __init__(
        self, student: nn.Module, joint: bool = False, random: bool = False, **options: Any
    ) -> None:
        check_flags(joint=joint, random=random)
        self.trains_student = joint
        super().__init__(student, **options)
        self.random = random
        if joint:
            return
        student.requires_grad_(False)
        whole, backbone, head = (
            pretrained_init(getattr(part, 'init_cfg', None)) is not None
            for part in (student, student.backbone, student.head)
        )
        self.initialised = whole or (backbone and head)

    @classmethod
    def dry_run(cls, section: dict[str, Any]) -> None:
        """As the base; the classifier may have random weights."""
        super().dry_run(section)
        section['random'] = True

    def losses(self, views: Tensor, samples: Sequence[Any], labels: Tensor) -> dict[str, Tensor]:
        """As `SelfSupervised`."""
        output = self.branched(views, samples)
        self.remember(output.joint, labels)
        return {**output.losses, **self.weighed('joint', joint_cross_entropy(output.joint, labels))}

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse branches behind untrained weights."""
        if not (self.trains_student or loaded or self.random or self.initialised):
            raise ConfigError(
                'it is missing: branches with kd.joint=False are trained behind a frozen '
                'classifier, and this one has random weights',
                key='load_from',
                fix='Name a conventionally trained checkpoint (load_from=...), train both together '
                '(kd.joint=True), or ask for random weights in a smoke test (kd.random=True).',
            )
