"""VGG with batch normalisation for small images."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import nn

from ...registry import MODELS
from .checks import choose
from .layers import conv_norm_relu
from .staged import KAIMING_FAN_OUT, InitCfg, Stage, StagedBackbone


class Plan(NamedTuple):
    """Widths of a network's convolutions, by stage, and whether a pooling follows the last one."""

    widths: tuple[tuple[int, ...], ...]
    pooled: bool = False


#: By depth; the pooling before a stage is part of it.
PLANS = {
    8: Plan(((64,), (128,), (256,), (512, 512))),
    13: Plan(((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 4)),
    16: Plan(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), pooled=True),
}


def vgg_stage(widths: tuple[int, ...], in_channels: int, stride: int) -> nn.Sequential:
    """Max-pooling unless the stride is 1, then 3x3 convolutions with bias, BN, ReLU."""
    layers: list[nn.Module] = [] if stride == 1 else [nn.MaxPool2d(stride)]
    for width in widths:
        layers += conv_norm_relu(in_channels, width, 3, bias=True)
        in_channels = width
    return nn.Sequential(*layers)


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG-8, VGG-13 or VGG-16 with BN and one linear layer, that of the head (arXiv 1409.1556).

    Stage outputs follow a ReLU. VGG-8 and VGG-13, as in CRD and HSSAKD, have three poolings: the
    stages, at strides 1, 2, 4 and 8, are blocks 0, 1, 2 and 4 of five. VGG-16, as in MCL-OKD, has
    one behind each of five blocks: the stages are the blocks, at strides 1 to 16, and the tail is
    the last pooling. The stem is empty. Images of 8 pixels at least, for VGG-16 of 32.

    Args:
        depth: 8, 13 or 16.
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If the depth is another.
    """

    default_init: ClassVar[InitCfg] = KAIMING_FAN_OUT
    head_init: ClassVar[dict[str, Any] | None] = dict(type='Normal', layer='Linear', std=0.01)

    def __init__(self, depth: int, in_channels: int = 3, **kwargs: Any) -> None:
        plan = choose('CIFARVGG', 'depth', depth, PLANS)
        stages = [
            Stage(widths[-1], 2 if index else 1, partial(vgg_stage, widths))
            for index, widths in enumerate(plan.widths)
        ]
        tail = partial(nn.MaxPool2d, 2) if plan.pooled else nn.Identity
        super().__init__(nn.Identity(), in_channels, stages, tail, **kwargs)
