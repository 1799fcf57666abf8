"""A teacher with trained auxiliary branches."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.checkpoints import ENTRY, load_strictly
from kdmm.distillers.stage_branches import make_branches, stage_taps
from kdmm.errors import ConfigError
from kdmm.models import AuxiliaryBranches
from kdmm.teachers.teacher import Teacher

_PREFIX = 'branches.'


class BranchedTeacher(Teacher):
    """A classifier that `HSSAKDTeacher` or `HSSAKDOnline` trained, with its branches.

    Args:
        stages: Which branches, by the stage before them; None: all that the checkpoint has.
        options: See `Teacher`. The checkpoint is one of such a run.

    Raises:
        ConfigError: As `Teacher`; if the checkpoint has no branches, or they do not fit.
    """

    branches: AuxiliaryBranches

    def __init__(self, stages: Sequence[int] | None = None, **options: Any) -> None:
        self._stages = stages
        super().__init__(**options)

    def prepare_for(self, student: nn.Module) -> None:
        """Prepare for the inputs of ``student``."""
        self.connect(student, {**stage_taps(self.branches), 'logits': 'head.out'})

    @torch.no_grad()
    def branch_outputs(self, views: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Views (4B, 3, S, S) -> logits (4B, C) and, by branch, (4B, 4C)."""
        found = self(views)
        with self._precision(views):
            return found['logits'], self.branches(found)

    def _further_parts(self, content: Mapping[str, Any] | None) -> Sequence[nn.Module]:
        state = {} if content is None else _branch_state(content)
        stages = self._stages
        if content is not None:
            stages = _chosen(stages, _stages_in(state))
            state = {key: state[key] for key in state if _stage_of(key) in stages}
        self.branches = make_branches(self.module, stages, owner='the teacher', per_class=4)
        if content is not None:
            load_strictly(self.branches, state, 'kd.teacher.checkpoint: its set of branches')
        return [self.branches]


def _branch_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    entry = content.get(ENTRY) or {}
    state = {
        key.removeprefix(_PREFIX): value for key, value in entry.items() if key.startswith(_PREFIX)
    }
    if not state:
        raise ConfigError(
            'a classifier without trained auxiliary branches, which cannot teach HSSAKD',
            key='kd.teacher.checkpoint',
            fix="Train them first: kd=dict(type='HSSAKDTeacher') with load_from=<this file>, and "
            'name the checkpoint of that run.',
        )
    return state


def _chosen(wanted: Sequence[int] | None, there: list[int]) -> list[int]:
    if wanted is None:
        return there
    if not set(wanted) <= set(there):
        raise ConfigError(
            f'the checkpoint has branches behind {there}',
            key='kd.teacher.stages',
            got=list(wanted),
        )
    return list(wanted)


def _stages_in(state: Mapping[str, Any]) -> list[int]:
    """Indices of the stages that have a branch."""
    return sorted(set(map(_stage_of, state)))


def _stage_of(key: str) -> int:
    """``stage1.fc.weight`` is of stage 0."""
    found = re.match(r'stage([1-9]\d*)\.', key)
    if found is None:
        raise ConfigError(
            f'{_PREFIX}{key} in it is no branch behind a stage', key='kd.teacher.checkpoint'
        )
    return int(found[1]) - 1
