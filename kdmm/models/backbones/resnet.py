"""ResNet for small images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...registry import MODELS
from .checks import choose, positive_ints, units_of_depth
from .layers import conv_norm, conv_norm_relu, run_of_units
from .staged import KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS, InitCfg, Stage, StagedBackbone


def basic_branch(in_channels: int, width: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions; the first has the stride."""
    return nn.Sequential(
        *conv_norm_relu(in_channels, width, 3, stride), *conv_norm(width, width, 3)
    )


def bottleneck_branch(in_channels: int, width: int, stride: int) -> nn.Sequential:
    """1x1, 3x3 with the stride, 1x1 to four times the width."""
    return nn.Sequential(
        *conv_norm_relu(in_channels, width, 1),
        *conv_norm_relu(width, width, 3, stride),
        *conv_norm(width, 4 * width, 1),
    )


class Form(NamedTuple):
    """A kind of block: its branch, output channels over width, layers that n adds to a depth."""

    branch: Callable[[int, int, int], nn.Sequential]
    expansion: int
    period: int


FORMS = dict(basic=Form(basic_branch, 1, 6), bottleneck=Form(bottleneck_branch, 4, 9))


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, then channels of zeros (arXiv 1512.03385, option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class ResidualBlock(nn.Module):
    """ReLU(branch + skip); where the shape changes, the skip is one of `SHORTCUTS`."""

    def __init__(
        self, form: Form, shortcut: str, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.branch = form.branch(in_channels, out_channels // form.expansion, stride)
        same = stride == 1 and in_channels == out_channels
        self.skip = nn.Sequential(
            *([] if same else SHORTCUTS[shortcut](in_channels, out_channels, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        return F.relu(self.branch(x) + self.skip(x), inplace=True)


#: A 1x1 convolution with BN (option B), or no weights at all (option A).
SHORTCUTS: dict[str, Callable[[int, int, int], Sequence[nn.Module]]] = dict(
    conv=lambda in_channels, out_channels, stride: conv_norm(in_channels, out_channels, 1, stride),
    pad=lambda *shape: [PaddedShortcut(*shape)],
)


def residual_stage(
    form: Form, shortcut: str, blocks: int, out_channels: int, in_channels: int, stride: int
) -> nn.Sequential:
    """``blocks`` residual blocks."""
    unit = partial(ResidualBlock, form, shortcut)
    return nn.Sequential(*run_of_units(unit, in_channels, out_channels, stride, blocks))


@MODELS.register_module()
class CIFARResNet(StagedBackbone):
    """ResNet of three stages without max-pooling, post-activation (arXiv 1512.03385).

    Stage outputs follow the last ReLU, at strides 1, 2 and 4. The network of four stages
    (ResNet-50) is MMPretrain's ``ResNet_CIFAR`` with ``zero_init_residual=False``.

    Args:
        depth: 6n + 2 for basic, 9n + 2 for bottleneck blocks.
        block: ``'basic'`` or ``'bottleneck'``, not to be left out: many depths exist in both forms,
            and papers call both of depth 110 "ResNet-110" (basic: 1.74 M parameters with 100
            classes; bottleneck: 1.17 M).
        widths: Of the stem and of the stages, before the bottleneck's factor 4. "x4" networks have
            (32, 64, 128, 256).
        in_channels: Of the image.
        shortcut: Of blocks that change the shape: ``'conv'``, or ``'pad'`` as in the paper's
            networks for CIFAR-10, which pruning is compared on; the width must not shrink then.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If the depth does not suit the block, or an argument is not among the known.
    """

    default_init: ClassVar[InitCfg] = KAIMING_FAN_OUT
    branch_init: ClassVar[InitCfg] = [KAIMING_FAN_OUT, LINEAR_WITHOUT_BIAS]

    def __init__(
        self,
        depth: int,
        block: str | None = None,
        widths: Sequence[int] = (16, 16, 32, 64),
        in_channels: int = 3,
        shortcut: str = 'conv',
        **kwargs: Any,
    ) -> None:
        choose('CIFARResNet', 'shortcut', shortcut, SHORTCUTS)
        form = choose('CIFARResNet', 'block', block, FORMS)
        blocks = units_of_depth('CIFARResNet', depth, form.period, 2)
        first, *others = positive_ints('CIFARResNet', 'widths', widths, 4)
        channels = [width * form.expansion for width in others]
        if shortcut == 'pad' and [first, *channels] != sorted([first, *channels]):
            raise ConfigError(
                key='CIFARResNet.widths',
                got=tuple(widths),
                expected="widths that do not shrink, with shortcut='pad'",
            )
        stages = [
            Stage(out, stride, partial(residual_stage, form, shortcut, blocks, out))
            for out, stride in zip(channels, (1, 2, 2), strict=True)
        ]
        stem = nn.Sequential(*conv_norm_relu(in_channels, first, 3))
        super().__init__(stem, first, stages, **kwargs)
