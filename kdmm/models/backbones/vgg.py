"""VGG with batch normalisation for small images."""

from functools import partial
from typing import Any, ClassVar

from torch import nn

from ...registry import MODELS
from .checks import choose
from .layers import conv_norm_relu
from .staged import KAIMING_FAN_OUT, InitCfg, Stage, StagedBackbone

#: Convolutions of a block.
BLOCK_DEPTHS = {8: 1, 13: 2}
#: Blocks of each stage, by width; the pooling before a stage is part of it.
STAGES = ((64,), (128,), (256,), (512, 512))


def vgg_stage(
    block_depth: int, widths: tuple[int, ...], in_channels: int, stride: int
) -> nn.Sequential:
    """Max-pooling unless the stride is 1, then blocks of 3x3 convolutions with bias, BN, ReLU."""
    layers: list[nn.Module] = [] if stride == 1 else [nn.MaxPool2d(stride)]
    for width in widths:
        for _ in range(block_depth):
            layers += conv_norm_relu(in_channels, width, 3, bias=True)
            in_channels = width
    return nn.Sequential(*layers)


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG-8 or VGG-13 with BN and three poolings (arXiv 1409.1556).

    Stage outputs follow a ReLU, at strides 1, 2, 4 and 8: blocks 0, 1, 2 and 4 of five. The stem is
    empty. Images of 8 pixels at least.

    Args:
        depth: 8 or 13.
        in_channels: Of the image.
        kwargs: See `StagedBackbone`.

    Raises:
        ConfigError: If the depth is another.
    """

    default_init: ClassVar[InitCfg] = KAIMING_FAN_OUT
    head_init: ClassVar[dict[str, Any] | None] = dict(type='Normal', layer='Linear', std=0.01)

    def __init__(self, depth: int, in_channels: int = 3, **kwargs: Any) -> None:
        block_depth = choose('CIFARVGG', 'depth', depth, BLOCK_DEPTHS)
        stages = [
            Stage(widths[-1], 2 if index else 1, partial(vgg_stage, block_depth, widths))
            for index, widths in enumerate(STAGES)
        ]
        super().__init__(nn.Identity(), in_channels, stages, **kwargs)
