"""`SelfSupervised`, the base of HSSAKD's roles (arXiv 2107.13715, 2109.03075)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.distillers.hssakd.branches import JOINT, BranchedForward, hard_labels, views_of
from kdmm.distillers.loss_weights import weights_by_part
from kdmm.distillers.objective import Objective, OwnLosses, rename_total
from kdmm.distillers.refusals import refuse_mixing
from kdmm.distillers.stage_branches import make_branches
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.functional import joint_labels
from kdmm.models import AuxiliaryBranches
from kdmm.schedules import Progress


class SelfSupervised(Objective):
    """Branches behind the stages of a classifier, trained on the rotated batch.

    Args:
        student: The classifier.
        stages: See `AuxiliaryBranches`.
        weight: A number or a schedule for all parts, or a dict of those by part.
        checkpointing: Compute the branches' activations again in the backward pass.
        channels_last: Use this memory format for the batch, the classifier and the branches.
        recalibrate: Whether, or ``dict(num_samples=)`` how, to write ``recalibrated.pth``.
        evaluate_branches: Report the branches' joint accuracy in validation.

    Attributes:
        parts: Names of the weighted parts.
    """

    parts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        student: nn.Module,
        stages: Sequence[int] | None = None,
        weight: Any = 1.0,
        checkpointing: bool = False,
        channels_last: bool = False,
        recalibrate: bool | Mapping[str, Any] = True,
        evaluate_branches: bool = False,
    ) -> None:
        super().__init__()
        check_flags(
            checkpointing=checkpointing,
            channels_last=channels_last,
            evaluate_branches=evaluate_branches,
        )
        refuse_mixing(student, JOINT)
        self.branches = make_branches(student, stages, checkpointing, per_class=4)
        self.branched = BranchedForward(student, self.branches, detached=not self.trains_student)
        self.weights = weights_by_part(weight, self.parts)
        self.channels_last = channels_last
        if channels_last:
            student.to(memory_format=torch.channels_last)
            self.to(memory_format=torch.channels_last)
        if recalibrate and self.trains_student:
            options = _recalibration(recalibrate)
            self.hooks.append(dict(type='kdmm.RecalibrateBNHook', **options))
        if evaluate_branches:
            self.hooks.append(dict(type='kdmm.BranchAccuracyHook'))
        self._last_joint: tuple[Mapping[str, Tensor], Tensor] | None = None
        print_log(describe(student, self.branches), 'current')

    @classmethod
    def dry_run(cls, section: dict[str, Any]) -> None:
        """As the base; without evaluation and recalibration."""
        super().dry_run(section)
        section.update(recalibrate=False, evaluate_branches=False)

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """Compute the losses of one preprocessed batch (B, 3, S, S).

        The classifier processes four rotations in one pass, so ``own`` is not called.
        """
        labels = joint_labels(hard_labels(samples))
        views = views_of(inputs, self.channels_last)
        return rename_total(self.losses(views, samples or (), labels))

    def losses(self, views: Tensor, samples: Sequence[Any], labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses, log names to scalars.

        Args:
            views: (4B, 3, S, S), interleaved.
            samples: The B data samples.
            labels: Joint labels, (4B,).
        """
        raise NotImplementedError

    def weighed(self, part: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Log entries of a part."""
        weight = self.weights.now(part)
        return {f'kd.loss_{name}': weight * value for name, value in losses.items()}

    def remember(self, joint: Mapping[str, Tensor], labels: Tensor) -> None:
        """Keep logits and labels for :meth:`diagnostics`."""
        self._last_joint = ({name: logits.detach() for name, logits in joint.items()}, labels)

    def facts(self) -> list[str]:
        """As the base, with the parts that are weighted."""
        parts = f'{"parts" if len(self.parts) > 1 else "part"} {" + ".join(self.parts)}'
        return [parts, *super().facts()]

    def diagnostics(self) -> dict[str, Any]:
        """``kd.joint_accuracy_<branch>``: percent of the last batch's 4B views."""
        if self._last_joint is None:
            return {}
        joint, labels = self._last_joint
        return {
            f'kd.joint_accuracy_{name}': (logits.argmax(1) == labels).float().mean() * 100
            for name, logits in joint.items()
        }

    def set_progress(self, progress: Progress) -> None:
        """Move the weights."""
        self.weights.set_progress(progress)


def describe(student: nn.Module, branches: AuxiliaryBranches) -> str:
    """Describe the branches for the log: position and number of parameters."""
    own = sum(p.numel() for p in student.parameters())
    lines = []
    for name, branch in branches.items():
        count = sum(p.numel() for p in branch.parameters())
        lines.append(f'{name}: behind backbone.{branches.taps[name]}, {count:,} parameters')
    return '\n  '.join([f'HSSAKD: classifier of {own:,} parameters, auxiliary branches:', *lines])


def check_flags(**flags: Any) -> None:
    """Refuse values that are neither True nor False.

    Raises:
        ConfigError: Names the key.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(key=f'kd.{name}', got=value, expected='True or False')


def check_temperature(value: Any) -> None:
    """Refuse values that are no positive numbers.

    Raises:
        ConfigError: Names the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(key='kd.temperature', got=value, expected='a positive number')


def _recalibration(value: Any) -> Mapping[str, Any]:
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            key='kd.recalibrate', got=value, expected='True, False or dict(num_samples=...)'
        )
    refuse_unknown('kd.recalibrate', value, ['num_samples'])
    return value
