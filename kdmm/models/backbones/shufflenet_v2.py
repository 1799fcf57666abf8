"""ShuffleNetV2 for small images."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...registry import MODELS
from .checks import choose
from .layers import ChannelShuffle, conv_norm, conv_norm_relu
from .staged import Stage, StagedBackbone

STEM_CHANNELS, LAST_CHANNELS = 24, 1024
#: Channels of the stages by widening factor.
WIDTHS = {0.5: (48, 96, 192), 1.0: (116, 232, 464)}
#: Units of the stages.
UNITS = (4, 8, 4)


def processed(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """1x1, depthwise 3x3 without ReLU, 1x1."""
    return nn.Sequential(
        *conv_norm_relu(in_channels, out_channels, 1),
        *conv_norm(out_channels, out_channels, 3, stride, groups=out_channels),
        *conv_norm_relu(out_channels, out_channels, 1),
    )


class DownUnit(nn.Module):
    """Both halves of the output are computed from the whole input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(
            *conv_norm(in_channels, in_channels, 3, stride, groups=in_channels),
            *conv_norm_relu(in_channels, half, 1),
        )
        self.right = processed(in_channels, half, stride)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        return self.shuffle(torch.cat([self.left(x), self.right(x)], 1))


class BasicUnit(nn.Module):
    """The first half of the channels passes, the second is processed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = processed(channels // 2, channels // 2, 1)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        passed, rest = x.chunk(2, 1)
        return self.shuffle(torch.cat([passed, self.branch(rest)], 1))


def split_stage(units: int, out_channels: int, in_channels: int, stride: int) -> nn.Sequential:
    """A down unit, at any stride, and basic units."""
    rest = (BasicUnit(out_channels) for _ in range(units - 1))
    return nn.Sequential(DownUnit(in_channels, out_channels, stride), *rest)


def last_conv(in_channels: int) -> nn.Sequential:
    """1x1 convolution, BN, ReLU."""
    return nn.Sequential(*conv_norm_relu(in_channels, LAST_CHANNELS, 1))


@MODELS.register_module()
class CIFARShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 without max-pooling (arXiv 1807.11164).

    Stage outputs are at strides 2, 4 and 8; the tail is the last 1x1 convolution, BN and ReLU.

    Args:
        stem_kernel: 1 (HSSAKD, CRD) or 3 (MCL, L-MCL), not to be left out.
        widen_factor: 1.0 or 0.5.
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If an argument is not among the known.
    """

    def __init__(
        self,
        stem_kernel: int | None = None,
        widen_factor: float = 1.0,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        kernel = choose('CIFARShuffleNetV2', 'stem_kernel', stem_kernel, {1: 1, 3: 3})
        widths = choose('CIFARShuffleNetV2', 'widen_factor', widen_factor, WIDTHS)
        stages = [
            Stage(width, 2, partial(split_stage, units, width))
            for width, units in zip(widths, UNITS, strict=True)
        ]
        super().__init__(
            nn.Sequential(*conv_norm_relu(in_channels, STEM_CHANNELS, kernel)),
            STEM_CHANNELS,
            stages,
            partial(last_conv, widths[-1]),
            LAST_CHANNELS,
            **kwargs,
        )
