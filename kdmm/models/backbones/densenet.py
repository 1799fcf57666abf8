"""DenseNet for small images."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS
from .checks import choose, positive_ints, units_of_depth
from .layers import conv, norm_relu
from .staged import KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS, InitCfg, Stage, StagedBackbone

#: Layers that one unit of a block adds to a depth, by ``bottleneck``.
PERIODS = {False: 3, True: 6}
#: Channels inside a bottleneck, over the growth rate.
WIDENED = 4


class DenseLayer(nn.Module):
    """The input, and behind it ``growth`` channels more: BN, ReLU, 3x3 convolution of the input.

    Args:
        in_channels: Of the input.
        growth: Channels that are added.
        bottleneck: Let BN, ReLU and a 1x1 convolution to four times the growth come first.
    """

    def __init__(self, in_channels: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        first: list[nn.Module] = []
        if bottleneck:
            wide = WIDENED * growth
            first = [*norm_relu(in_channels), conv(in_channels, wide, 1)]
            in_channels = wide
        self.branch = nn.Sequential(*first, *norm_relu(in_channels), conv(in_channels, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + growth, H, W)."""
        return torch.cat([x, self.branch(x)], 1)


class Transition(nn.Module):
    """BN, ReLU, 1x1 convolution and average pooling."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*norm_relu(in_channels), conv(in_channels, out_channels, 1))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        x = self.branch(x)
        return x if self.stride == 1 else F.avg_pool2d(x, self.stride)


def dense_stage(
    growth: int, bottleneck: bool, units: int, out_channels: int, in_channels: int, stride: int
) -> nn.Sequential:
    """A dense block, and before it the transition to its width where that changes."""
    width = out_channels - units * growth
    same = stride == 1 and in_channels == width
    layers = (DenseLayer(width + i * growth, growth, bottleneck) for i in range(units))
    return nn.Sequential(*([] if same else [Transition(in_channels, width, stride)]), *layers)


@MODELS.register_module()
class CIFARDenseNet(StagedBackbone):
    """DenseNet of three blocks, pre-activation, without dropout (arXiv 1608.06993).

    Stage outputs are raw concatenations, at strides 1, 2 and 4. A transition is the first module of
    the stage behind it (``stages.1.0``). The tail is the last BN and ReLU.

    Args:
        depth: 3n + 4, of DenseNet-BC 6n + 4, with n units in each block.
        growth: Channels that a unit adds.
        bottleneck: Not to be left out, as papers call both of depth 40 and growth 12
            "DenseNet-40-12". False: a stem of 16 channels, transitions that keep the channels (1.06
            M parameters with 100 classes). True, DenseNet-BC: a stem of twice the growth, a 1x1
            convolution before each 3x3 one, transitions to half the channels (0.19 M).
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If the depth does not suit the form, or an argument is not among the known.
    """

    default_init: ClassVar[InitCfg] = KAIMING_FAN_OUT
    head_init: ClassVar[dict[str, Any] | None] = LINEAR_WITHOUT_BIAS
    branch_init: ClassVar[InitCfg] = [KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS]

    def __init__(
        self,
        depth: int,
        growth: int,
        bottleneck: bool | None = None,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        period = choose('CIFARDenseNet', 'bottleneck', bottleneck, PERIODS)
        units = units_of_depth('CIFARDenseNet', depth, period, 4)
        (growth,) = positive_ints('CIFARDenseNet', 'growth', [growth], 1)
        width = stem_channels = 2 * growth if bottleneck else 16
        stages = []
        for index in range(3):
            if index and bottleneck:
                width //= 2
            width += units * growth
            build = partial(dense_stage, growth, bool(bottleneck), units, width)
            stages.append(Stage(width, 2 if index else 1, build))
        stem = conv(in_channels, stem_channels, 3)
        super().__init__(stem, stem_channels, stages, partial(norm_relu, width), **kwargs)
