"""Branches that continue a backbone from each of its stages (HSSAKD, arXiv 2109.03075, fig. 2)."""

from collections.abc import Mapping, Sequence

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
    """

    def __init__(
        self, staging: Staging, index: int, outputs: int, checkpointing: bool = False
    ) -> None:
        super().__init__()
        last = len(staging.stage_channels) - 1
        if index < last:
            stages = [staging.new_stage(number) for number in range(index + 1, last + 1)]
        else:
            stages = [staging.new_stage(last, staging.stage_channels[last], 1)]
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
        stages: Indices of the stages that get a branch, from 0; None: all.
        checkpointing: See `AuxiliaryBranch`.

    Attributes:
        taps: Name of each branch to the path, within the backbone, of the stage before it.

    Raises:
        ConfigError: If the backbone does not have these stages.
    """

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int,
        stages: Sequence[int] | None = None,
        checkpointing: bool = False,
    ) -> None:
        staging = staging_of(backbone)
        chosen = _checked(stages, len(staging.stage_names), type(backbone).__name__)
        super().__init__(
            {
                branch_name(index): AuxiliaryBranch(staging, index, outputs, checkpointing)
                for index in chosen
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


def _checked(stages: Sequence[int] | None, count: int, network: str) -> list[int]:
    if stages is None:
        return list(range(count))
    given = list(stages) if isinstance(stages, Sequence) else []
    whole = all(type(index) is int for index in given)
    if not given or not whole or sorted(set(given)) != given or given[0] < 0:
        raise ConfigError(
            key='kd.stages', got=stages, expected='ascending indices of stages, from 0'
        )
    if given[-1] >= count:
        raise ConfigError(
            f'{network} has {count} stages (0 to {count - 1})',
            key='kd.stages',
            got=stages,
            fix='Name fewer, or leave kd.stages out for one a stage.',
        )
    return given
