"""Branches that continue a backbone from each of its stages (HSSAKD, arXiv 2109.03075, fig. 2)."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.model import initialize
from torch import Tensor, nn

from ..errors import ConfigError
from .recompute import recomputed
from .staging import Staging, staging_of


class AuxiliaryBranch(nn.Module):
    """The rest of a network behind one of its stages, with fresh weights and a classifier.

    Behind the last stage, where no rest is left, it is the last stage again, at stride 1 on its own
    output's channels.

    Args:
        staging: The network.
        index: The stage before the branch, from 0.
        outputs: Logits of the classifier.
        checkpointing: Do not keep the stages' activations, see `recomputed`.
        blocks: Blocks of each stage; None: as many as the network has.
    """

    def __init__(
        self,
        staging: Staging,
        index: int,
        outputs: int,
        checkpointing: bool = False,
        blocks: int | None = None,
    ) -> None:
        super().__init__()
        last = len(staging.stage_channels) - 1
        fewer = {} if blocks is None else dict(blocks=blocks)
        if index < last:
            stages = [staging.new_stage(number, **fewer) for number in range(index + 1, last + 1)]
        else:
            stages = [staging.new_stage(last, staging.stage_channels[last], 1, **fewer)]
        self.stages, self.tail = nn.ModuleList(stages), staging.new_tail()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(staging.tail_channels, outputs)
        self.checkpointing = checkpointing
        if staging.branch_init is not None:
            initialize(self, staging.branch_init)

    def forward(self, x: Tensor) -> Tensor:
        """The stage's output (R, C, h, w) -> logits (R, outputs)."""
        for part in (*self.stages, self.tail):
            x = recomputed(part, x) if self.checkpointing and self.training else part(x)
        return self.fc(self.pool(x).flatten(1))


class AuxiliaryBranches(nn.ModuleDict):
    """One branch a stage, named ``stage1`` (behind the first stage) and so on.

    Args:
        backbone: See `staging_of`; only read.
        outputs: Logits of each.
        stages: Indices of the stages that get a branch, from 0; None: all; ``'inner'``: all but the
            last, behind which the network's own classifier is.
        checkpointing: See `AuxiliaryBranch`.
        blocks: See `AuxiliaryBranch`; or one such value for each branch.

    Attributes:
        taps: Name of each branch to the path, within the backbone, of the stage before it.

    Raises:
        ConfigError: If the backbone does not have these stages, or blocks cannot be left out.
    """

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int,
        stages: Sequence[int] | str | None = None,
        checkpointing: bool = False,
        blocks: int | Sequence[int | None] | None = None,
    ) -> None:
        staging = staging_of(backbone)
        chosen = _checked(stages, len(staging.stage_names), type(backbone).__name__)
        fewer = _blocks(blocks, len(chosen), staging, type(backbone).__name__)
        super().__init__(
            {
                branch_name(index): AuxiliaryBranch(staging, index, outputs, checkpointing, number)
                for index, number in zip(chosen, fewer, strict=True)
            }
        )
        self.taps = {branch_name(index): staging.stage_names[index] for index in chosen}

    def forward(self, stages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the logits (R, outputs) of each branch.

        Args:
            stages: Branch to the output of the stage before it, (R, C_l, h_l, w_l).
        """
        return {name: branch(stages[name]) for name, branch in self.items()}


def branch_name(index: int) -> str:
    """Name the branch behind stage ``index`` (from 0)."""
    return f'stage{index + 1}'


def _blocks(blocks: Any, branches: int, staging: Staging, network: str) -> list[int | None]:
    """Blocks of a stage in each branch, None where they are not limited."""
    given = list(blocks) if isinstance(blocks, list | tuple) else [blocks] * branches
    if len(given) != branches or any(
        value is not None and (type(value) is not int or value < 1) for value in given
    ):
        raise ConfigError(
            key='kd.blocks',
            got=blocks,
            expected=f'1 block a stage, or more, or a list of {branches} such numbers or None',
        )
    limited = any(value is not None for value in given)
    if limited and 'blocks' not in signature(staging.new_stage).parameters:
        raise ConfigError(
            f'{network} does not say how to build a stage of fewer blocks',
            key='kd.blocks',
            got=blocks,
            fix='Leave it out; ResNets and ShuffleNetV2 of MMPretrain have it.',
        )
    return given


def _checked(stages: Sequence[int] | str | None, count: int, network: str) -> list[int]:
    if stages is None:
        return list(range(count))
    if stages == 'inner' and count < 2:
        raise ConfigError(f'{network} has one stage', key='kd.stages', got=stages)
    if stages == 'inner':
        return list(range(count - 1))
    given: list[Any] = list(stages) if isinstance(stages, Sequence) else []
    whole = all(type(index) is int for index in given)
    if not given or not whole or sorted(set(given)) != given or given[0] < 0:
        raise ConfigError(
            key='kd.stages',
            got=stages,
            expected="ascending indices of stages, from 0, or 'inner'",
        )
    if given[-1] >= count:
        raise ConfigError(
            f'{network} has {count} stages (0 to {count - 1})',
            key='kd.stages',
            got=stages,
            fix='Name fewer, or leave kd.stages out for one a stage.',
        )
    return given
