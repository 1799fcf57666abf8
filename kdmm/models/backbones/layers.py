"""Layers that the families share: convolutions with norm, runs of units, channel shuffle."""

from typing import Protocol

from torch import Tensor, nn


class Unit(Protocol):
    """A class or partial that builds one unit of a stage."""

    def __call__(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """The unit."""


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution of odd kernel that keeps the size at stride 1."""
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
    )


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> list[nn.Module]:
    """Convolution, BN."""
    layer = conv(in_channels, out_channels, kernel, stride, groups, bias)
    return [layer, nn.BatchNorm2d(out_channels)]


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> list[nn.Module]:
    """Convolution, BN, ReLU."""
    layers = conv_norm(in_channels, out_channels, kernel, stride, groups, bias)
    return [*layers, nn.ReLU(inplace=True)]


def norm_relu(channels: int) -> nn.Sequential:
    """BN, ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def run_of_units(
    unit: Unit, in_channels: int, out_channels: int, stride: int, count: int
) -> list[nn.Module]:
    """``count`` units; the first one changes channels and resolution."""
    first = unit(in_channels, out_channels, stride)
    return [first, *(unit(out_channels, out_channels, 1) for _ in range(count - 1))]


class ChannelShuffle(nn.Module):
    """Deal the channels of ``groups`` groups round: channel g * (C / groups) + i -> i * groups + g.

    Args:
        groups: Divides C. Shuffling with C / groups groups restores the order.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        """The argument."""
        return f'groups={self.groups}'
