"""HSSAKD's student, which learns the logits of a teacher and its branches on rotated images."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from kdmm.distillers.builder import task_facts
from kdmm.distillers.hssakd.branched_teacher import BranchedTeacher
from kdmm.distillers.hssakd.branches import branch_divergence
from kdmm.distillers.hssakd.objective import SelfSupervised, check_temperature
from kdmm.distillers.objective import register_objective
from kdmm.distillers.section import list_of_teachers
from kdmm.errors import ConfigError
from kdmm.functional.divergence import kl_divergence
from kdmm.renamed import renamed
from kdmm.teachers.teacher import Teacher


@register_objective('HSSAKD')
@renamed('kd', tau='temperature')
class StudentTraining(SelfSupervised):
    """Distil a student offline (HSSAKD, arXiv 2109.03075, eq. 8 to 10).

    CE(p, y) on the unrotated rows, KL of p and of each q_l to the teacher's on all.

    The student's branches get no cross entropy, as in the released code.

    Args:
        student: The classifier.
        teacher: Arguments of `BranchedTeacher`.
        temperature: T of all terms.
        options: See `SelfSupervised`. The parts are ``logits`` (p) and ``branches`` (q_l).

    Raises:
        ConfigError: If the teacher has other classes or another number of branches.
    """

    parts: ClassVar[tuple[str, ...]] = ('logits', 'branches')

    def __init__(
        self,
        student: nn.Module,
        teacher: Mapping[str, Any],
        temperature: float = 3.0,
        **options: Any,
    ) -> None:
        check_temperature(temperature)
        super().__init__(student, **options)
        known = [*inspect.signature(Teacher).parameters, 'stages']
        arguments = list_of_teachers(teacher, known)
        if len(arguments) > 1:
            raise ConfigError(
                f'HSSAKD learns from one teacher, and these are {len(arguments)}', key='kd.teacher'
            )
        self.teacher = BranchedTeacher(**arguments[0])
        self.teachers = [self.teacher]
        self.temperature = temperature
        self._check(student)
        self.teacher.prepare_for(student)

    def losses(self, views: Tensor, samples: Sequence[Any], labels: Tensor) -> dict[str, Tensor]:
        """As `SelfSupervised`."""
        logits, joint = self.teacher.branch_outputs(views)
        output = self.branched(views, samples)
        self.remember(output.joint, labels)
        main = dict(logits=kl_divergence(output.logits, logits, self.temperature))
        branches = branch_divergence(output.joint, joint, self.temperature)
        return {
            **output.losses,
            **self.weighed('logits', main),
            **self.weighed('branches', branches),
        }

    def _check(self, student: nn.Module) -> None:
        mine, theirs = task_facts(student), task_facts(self.teacher.module)
        if mine['num_classes'] != theirs['num_classes']:
            raise ConfigError(
                f'it tells {theirs["num_classes"]} classes apart, the student '
                f'{mine["num_classes"]} (model.head.num_classes)',
                key='kd.teacher',
            )
        if len(self.branches) != len(self.teacher.branches):
            raise ConfigError(
                f'its {len(self.teacher.branches)} branches ({", ".join(self.teacher.branches)}) '
                f"are matched in order with the student's, which has {len(self.branches)} "
                f'({", ".join(self.branches)})',
                key='kd.teacher',
                fix='Choose a pair with equally many stages, or say with kd.stages which of them '
                'get a branch.',
            )
