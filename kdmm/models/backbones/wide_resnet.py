"""Wide ResNet for small images."""

from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS
from .checks import positive_ints, units_of_depth
from .layers import conv, conv_norm_relu, norm_relu, run_of_units
from .staged import KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS, InitCfg, Stage, StagedBackbone


class PreActivationUnit(nn.Module):
    """BN and ReLU before each of two 3x3 convolutions.

    The skip is the raw input, or where the shape changes a 1x1 convolution without BN of the
    activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        first = conv_norm_relu(in_channels, out_channels, 3, stride)
        self.branch = nn.Sequential(*first, conv(out_channels, out_channels, 3))
        same = stride == 1 and in_channels == out_channels
        self.skip = None if same else conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        active = F.relu(self.norm(x), inplace=True)
        return self.branch(active) + (x if self.skip is None else self.skip(active))


def wide_stage(units: int, out_channels: int, in_channels: int, stride: int) -> nn.Sequential:
    """``units`` pre-activation units."""
    return nn.Sequential(*run_of_units(PreActivationUnit, in_channels, out_channels, stride, units))


@MODELS.register_module()
class CIFARWideResNet(StagedBackbone):
    """Wide ResNet of three stages, pre-activation, without dropout (arXiv 1605.07146).

    Stage outputs are raw sums, at strides 1, 2 and 4; the tail is the last BN and ReLU.

    Args:
        depth: 6n + 4.
        widen_factor: k: the stages have 16k, 32k and 64k channels.
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If the depth is not 6n + 4, or the factor no positive whole number.
    """

    default_init: ClassVar[InitCfg] = KAIMING_FAN_OUT
    head_init: ClassVar[dict[str, Any] | None] = LINEAR_WITHOUT_BIAS
    branch_init: ClassVar[InitCfg] = [KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS]

    def __init__(self, depth: int, widen_factor: int, in_channels: int = 3, **kwargs: Any) -> None:
        units = units_of_depth('CIFARWideResNet', depth, 6, 4)
        (factor,) = positive_ints('CIFARWideResNet', 'widen_factor', [widen_factor], 1)
        stages = [
            Stage(width * factor, stride, partial(wide_stage, units, width * factor))
            for width, stride in ((16, 1), (32, 2), (64, 2))
        ]
        tail = partial(norm_relu, 64 * factor)
        super().__init__(conv(in_channels, 16, 3), 16, stages, tail, **kwargs)
