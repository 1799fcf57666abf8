"""The common frame of all families: stem, stages, tail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..recompute import recomputed
from .checks import checked_frozen, checked_outputs

InitCfg = dict[str, Any] | list[dict[str, Any]] | None

#: N(0, sqrt(2 / (k * k * C_out))), grouped or not; biases 0.
KAIMING_FAN_OUT = dict(type='Kaiming', layer='Conv2d')
#: Torch's own weights of a linear layer, but no bias.
LINEAR_WITHOUT_BIAS: dict[str, Any] = dict(
    type='Kaiming',
    layer='Linear',
    a=5**0.5,
    mode='fan_in',
    nonlinearity='leaky_relu',
    distribution='uniform',
)


@dataclass(frozen=True)
class Stage:
    """Constructor and channels of one stage.

    Args:
        out_channels: Of its output.
        stride: Of its first unit.
        build: Makes it from the input's channels and a stride.
    """

    out_channels: int
    stride: int
    build: Callable[[int, int], nn.Sequential]


class StagedBackbone(BaseModule):
    """A network that is a stem, then stages, then a tail, whatever its family.

    Output i is stage i for i < L, the number of stages; output L, or -1, is the tail's, which a
    classifier pools and a contrastive loss embeds. Families without layers after their last stage
    have an identity there. As modules (for taps): ``stem``, ``stages.0`` ... and ``tail``.

    Args:
        stem: Input image to ``stem_channels`` maps.
        stem_channels: Of the stem's output.
        stages: How to make the stages.
        build_tail: Makes what follows the last stage.
        tail_channels: Of the tail's output; None: those of the last stage.
        out_indices: The outputs returned, ascending. Parts after the last of them are not run.
        frozen_stages: Parts without gradient and in eval mode: -1 none, 0 the stem, k the stem
            and the first k stages, L + 1 all with the tail.
        norm_eval: Keep the running statistics of all BN.
        with_cp: Do not keep the stages' activations for the backward pass, compute them again.
        init_cfg: MMEngine's; None: the family's own initialisation.

    Raises:
        ConfigError: If ``out_indices`` or ``frozen_stages`` name parts that do not exist.
    """

    default_init: ClassVar[InitCfg] = None
    #: ``init_cfg`` of a ``LinearClsHead`` that starts as in the papers; None: torch's own.
    head_init: ClassVar[dict[str, Any] | None] = None
    #: ``init_cfg`` of the branches of HSSAKD, which start otherwise than the network itself.
    branch_init: ClassVar[InitCfg] = None

    def __init__(
        self,
        stem: nn.Module,
        stem_channels: int,
        stages: Sequence[Stage],
        build_tail: Callable[[], nn.Module] = nn.Identity,
        tail_channels: int | None = None,
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(self.default_init if init_cfg is None else init_cfg)
        self.plans, self.new_tail = tuple(stages), build_tail
        self.stem_channels = stem_channels
        self.stage_channels = tuple(stage.out_channels for stage in stages)
        self.tail_channels = tail_channels or self.stage_channels[-1]
        name, count = type(self).__name__, len(self.plans)
        self.out_indices = checked_outputs(name, out_indices, count)
        self.frozen_stages = checked_frozen(name, frozen_stages, count)
        self.norm_eval, self.with_cp = norm_eval, with_cp
        self.stem = stem
        self.stages = nn.ModuleList(self.new_stage(index) for index in range(len(stages)))
        self.tail = build_tail()
        for part in self._parts()[: frozen_stages + 1]:
            part.requires_grad_(False)

    def new_stage(
        self, index: int, in_channels: int | None = None, stride: int | None = None
    ) -> nn.Sequential:
        """A stage with fresh weights, as `new_tail` is a fresh tail: the rest of a network again.

        Args:
            index: Which stage, from 0.
            in_channels: None: as in this network. A stage that takes its own output's channels at
                stride 1 keeps the resolution.
            stride: None: as in this network.
        """
        plan = self.plans[index]
        usual = (self.stem_channels, *self.stage_channels[:-1])[index]
        return plan.build(
            usual if in_channels is None else in_channels, plan.stride if stride is None else stride
        )

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Path of each stage."""
        return tuple(f'stages.{index}' for index in range(len(self.stages)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> the outputs of ``out_indices``, in their order."""
        x = self.stem(x)
        outputs = []
        for index, part in enumerate((*self.stages, self.tail)[: self.out_indices[-1] + 1]):
            x = recomputed(part, x) if self.with_cp and self.training else part(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'StagedBackbone':
        """As usual, but what is frozen stays in eval mode."""
        super().train(mode)
        for part in self._parts()[: self.frozen_stages + 1]:
            part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages, self.tail]
