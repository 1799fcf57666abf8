"""MobileNetV2 for small images."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ...errors import ConfigError
from ...registry import MODELS
from .checks import choose
from .layers import conv_norm, conv_norm_relu, run_of_units
from .staged import KAIMING_FAN_OUT, InitCfg, Stage, StagedBackbone


class Row(NamedTuple):
    """A run of inverted residuals: expansion, channels before widening, number."""

    expansion: int
    channels: int
    units: int


#: Stride and rows of each stage.
STAGES = (
    (1, (Row(1, 16, 1), Row(6, 24, 2))),
    (2, (Row(6, 32, 3),)),
    (2, (Row(6, 64, 4), Row(6, 96, 3))),
    (2, (Row(6, 160, 3), Row(6, 320, 1))),
)


class InvertedResidual(nn.Module):
    """1x1 expansion (at factor 1, too), depthwise 3x3, linear 1x1; skips where the shape allows."""

    def __init__(self, expansion: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.branch = nn.Sequential(
            *conv_norm_relu(in_channels, hidden, 1),
            *conv_norm_relu(hidden, hidden, 3, stride, groups=hidden),
            *conv_norm(hidden, out_channels, 1),
        )
        self.keeps_shape = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        return x + self.branch(x) if self.keeps_shape else self.branch(x)


def inverted_stage(rows: tuple[Row, ...], in_channels: int, stride: int) -> nn.Sequential:
    """The rows' units; the first unit has the stride."""
    units: list[nn.Module] = []
    for row in rows:
        unit = partial(InvertedResidual, row.expansion)
        units += run_of_units(unit, in_channels, row.channels, stride, row.units)
        in_channels, stride = row.channels, 1
    return nn.Sequential(*units)


def last_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution, BN, ReLU."""
    return nn.Sequential(*conv_norm_relu(in_channels, out_channels, 1))


@MODELS.register_module()
class CIFARMobileNetV2(StagedBackbone):
    """MobileNetV2 with ReLU, expansion 6 (arXiv 1801.04381).

    Stage outputs are linear, after rows 2, 3, 5 and 7 of seven; the tail is the last 1x1
    convolution, BN and ReLU.

    Args:
        stem_stride: 1 (HSSAKD) or 2 (CRD), not to be left out: published students of the same name
            and weights differ by nine points for it. Stage outputs are at 1, 2, 4, 8 times it.
        widen_factor: W; channels are int(c * W), the tail's 1280 grow for W > 1 only.
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If the stride is another, or the factor leaves no channels.
    """

    default_init: ClassVar[InitCfg] = KAIMING_FAN_OUT
    head_init: ClassVar[dict[str, Any] | None] = dict(type='Normal', layer='Linear', std=0.01)
    branch_init: ClassVar[InitCfg] = [
        KAIMING_FAN_OUT,
        dict(type='Normal', layer='Linear', std=0.01),
    ]

    def __init__(
        self,
        stem_stride: int | None = None,
        widen_factor: float = 0.5,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        stride = choose('CIFARMobileNetV2', 'stem_stride', stem_stride, {1: 1, 2: 2})
        if int(16 * widen_factor) < 1:
            raise ConfigError(
                key='CIFARMobileNetV2.widen_factor',
                got=widen_factor,
                expected='1/16 at least, so that the narrowest layer keeps a channel',
            )
        stem, last = int(32 * widen_factor), int(1280 * max(widen_factor, 1))
        stages = [_stage(rows, step, widen_factor) for step, rows in STAGES]
        super().__init__(
            nn.Sequential(*conv_norm_relu(in_channels, stem, 3, stride)),
            stem,
            stages,
            partial(last_conv, stages[-1].out_channels, last),
            last,
            **kwargs,
        )


def _stage(rows: tuple[Row, ...], stride: int, factor: float) -> Stage:
    widened = tuple(row._replace(channels=int(row.channels * factor)) for row in rows)
    return Stage(widened[-1].channels, stride, partial(inverted_stage, widened))
