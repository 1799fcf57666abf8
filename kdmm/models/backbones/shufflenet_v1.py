"""ShuffleNetV1 for small images."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...registry import MODELS
from .layers import ChannelShuffle, conv_norm, conv_norm_relu, run_of_units
from .staged import KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS, InitCfg, Stage, StagedBackbone

GROUPS = 3
STEM_CHANNELS = 24


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3 (followed by a ReLU), grouped 1x1.

    At stride 1 the input is added; else it is pooled and appended, and the branch makes the
    channels that are still missing. The convolution that reads the stem is not grouped.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        made = out_channels if stride == 1 else out_channels - in_channels
        if made < 4 or (stride == 1 and in_channels != out_channels):
            raise ConfigError(
                f'at stride {stride}',
                key='ShuffleUnit.in_channels',
                got=in_channels,
                expected=f'at stride 1 those of the output ({out_channels}), to which they are '
                'added, else fewer',
            )
        inner, groups = made // 4, 1 if in_channels == STEM_CHANNELS else GROUPS
        self.branch = nn.Sequential(
            *conv_norm_relu(in_channels, inner, 1, groups=groups),
            ChannelShuffle(groups),
            *conv_norm_relu(inner, inner, 3, stride, groups=inner),
            *conv_norm(inner, made, 1, groups=GROUPS),
        )
        self.pool = None if stride == 1 else nn.AvgPool2d(3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        made = self.branch(x)
        joined = made + x if self.pool is None else torch.cat([made, self.pool(x)], 1)
        return F.relu(joined, inplace=True)


def shuffle_stage(units: int, out_channels: int, in_channels: int, stride: int) -> nn.Sequential:
    """``units`` shuffle units."""
    return nn.Sequential(*run_of_units(ShuffleUnit, in_channels, out_channels, stride, units))


@MODELS.register_module()
class CIFARShuffleNetV1(StagedBackbone):
    """ShuffleNetV1 1x of three groups, with a 1x1 stem at full resolution (arXiv 1707.01083).

    Stage outputs follow a ReLU, at strides 2, 4 and 8.

    Args:
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.
    """

    branch_init: ClassVar[InitCfg] = [KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS]

    def __init__(self, in_channels: int = 3, **kwargs: Any) -> None:
        stages = [
            Stage(width, 2, partial(shuffle_stage, units, width))
            for width, units in ((240, 4), (480, 8), (960, 4))
        ]
        stem = nn.Sequential(*conv_norm_relu(in_channels, STEM_CHANNELS, 1))
        super().__init__(stem, STEM_CHANNELS, stages, **kwargs)
