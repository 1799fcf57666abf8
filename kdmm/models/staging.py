"""Interface of a backbone that branches can continue from any of its stages."""

import copy
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..errors import ConfigError
from .backbones.staged import KAIMING_FAN_OUT, InitCfg


@runtime_checkable
class Staging(Protocol):
    """Stem, stages, tail. `StagedBackbone` is one, and whatever backbone offers the same.

    Attributes:
        stage_names: Path of each stage within the backbone.
        stage_channels: Channels of each stage's output.
        tail_channels: Channels of what a classifier pools.
        branch_init: MMEngine's ``init_cfg`` of a branch; None leaves torch's own.
    """

    @property
    def stage_names(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def branch_init(self) -> InitCfg: ...  # noqa: D102

    stage_channels: tuple[int, ...]
    tail_channels: int

    def new_stage(
        self, index: int, in_channels: int | None = None, stride: int | None = None
    ) -> nn.Module:
        """A stage again, with fresh weights; by default of the same shape.

        One that can be built of fewer blocks has a further argument ``blocks``.
        """

    def new_tail(self) -> nn.Module:
        """Build the layers behind the last stage again, with fresh weights."""


class ResNetStaging:
    """The stages of MMPretrain's ResNet and of those that derive from it (ResNeXt, V1c, V1d ...).

    Args:
        backbone: Built; only read.
    """

    branch_init: InitCfg = KAIMING_FAN_OUT

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        self.stage_names = tuple(backbone.res_layers)
        first = backbone.base_channels * backbone.expansion
        self.stage_channels = tuple(first * 2**index for index in range(len(self.stage_names)))
        self.tail_channels = self.stage_channels[-1]

    def new_stage(
        self,
        index: int,
        in_channels: int | None = None,
        stride: int | None = None,
        blocks: int | None = None,
    ) -> nn.Module:
        """As `Staging`; of ``blocks`` residual blocks, at most as many as in the network."""
        net = self.backbone
        usual = (net.stem_channels, *self.stage_channels[:-1])[index]
        kept = list(getattr(net, self.stage_names[index]))[:blocks]
        return net.make_res_layer(
            block=net.block,
            num_blocks=len(kept),
            in_channels=usual if in_channels is None else in_channels,
            out_channels=self.stage_channels[index],
            expansion=net.expansion,
            stride=net.strides[index] if stride is None else stride,
            dilation=net.dilations[index],
            style=net.style,
            avg_down=net.avg_down,
            with_cp=False,  # it would count each batch twice in BN; see `recomputed`
            conv_cfg=net.conv_cfg,
            norm_cfg=net.norm_cfg,
            drop_path_rate=[getattr(block.drop_path, 'drop_prob', 0.0) for block in kept],
        )

    def new_tail(self) -> nn.Module:
        """Build an identity: nothing follows the last stage."""
        return nn.Identity()


class ShuffleNetV2Staging:
    """The stages of MMPretrain's ShuffleNetV2: its stem's pooling, then three stages of units.

    The 1x1 convolution behind the last of them is the tail.

    Args:
        backbone: Built; only read.
    """

    branch_init: InitCfg = KAIMING_FAN_OUT
    stage_names = ('maxpool', 'layers.0', 'layers.1', 'layers.2')

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        *stages, tail = backbone.layers
        widths = [stage[0].branch2[-1].conv.out_channels * 2 for stage in stages]
        self.stage_channels = (backbone.conv1.conv.out_channels, *widths)
        self.tail_channels = tail.conv.out_channels

    def new_stage(
        self,
        index: int,
        in_channels: int | None = None,
        stride: int | None = None,
        blocks: int | None = None,
    ) -> nn.Module:
        """As `Staging`; of ``blocks`` units, at most as many as in the network."""
        net = self.backbone
        if index == 0:
            return copy.deepcopy(net.maxpool)
        kept = list(net.layers[index - 1])[:blocks]
        out = self.stage_channels[index]
        usual = self.stage_channels[index - 1] if in_channels is None else in_channels
        first = 2 if stride is None else stride
        units = [
            type(unit)(
                in_channels=usual if place == 0 else out,
                out_channels=out,
                stride=first if place == 0 else 1,
                conv_cfg=net.conv_cfg,
                norm_cfg=net.norm_cfg,
                act_cfg=net.act_cfg,
            )
            for place, unit in enumerate(kept)
        ]
        return nn.Sequential(*units)

    def new_tail(self) -> nn.Module:
        """Build the last convolution again, with its norm and activation."""
        net, tail = self.backbone, self.backbone.layers[-1]
        return type(tail)(
            self.stage_channels[-1],
            self.tail_channels,
            kernel_size=1,
            conv_cfg=net.conv_cfg,
            norm_cfg=net.norm_cfg,
            act_cfg=net.act_cfg,
        )


def staging_of(backbone: nn.Module) -> Staging:
    """Return the stages of ``backbone``.

    Raises:
        ConfigError: If that is not known.
    """
    if isinstance(backbone, Staging):
        return backbone
    # the ResNets of the other libraries have no expansion, and blocks of another signature
    if all(hasattr(backbone, name) for name in ('res_layers', 'make_res_layer', 'expansion')):
        return ResNetStaging(backbone)
    # kdmm's own for small images is a Staging
    if type(backbone).__name__ == 'ShuffleNetV2' and all(
        hasattr(backbone, name) for name in ('conv1', 'maxpool', 'layers', 'act_cfg')
    ):
        return ShuffleNetV2Staging(backbone)
    raise ConfigError(
        f'auxiliary branches continue a network of stages, and {type(backbone).__name__} does not '
        'say what its stages are',
        key='model.backbone',
        expected='a CIFAR network of kdmm, a ResNet or ShuffleNetV2 of MMPretrain, or what '
        'kdmm.models.Staging '
        'asks for',
    )
