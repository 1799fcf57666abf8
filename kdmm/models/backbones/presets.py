"""The networks of the papers by name."""

from typing import Any

from ...errors import ConfigError, nearest

_X4 = (32, 64, 128, 256)


def _resnet(depth: int, block: str = 'basic', **options: Any) -> dict[str, Any]:
    return dict(type='kdmm.CIFARResNet', depth=depth, block=block, **options)


def _wide(depth: int, widen_factor: int) -> dict[str, Any]:
    return dict(type='kdmm.CIFARWideResNet', depth=depth, widen_factor=widen_factor)


def _mobile(stem_stride: int) -> dict[str, Any]:
    return dict(type='kdmm.CIFARMobileNetV2', stem_stride=stem_stride)


def _shuffle(stem_kernel: int, widen_factor: float) -> dict[str, Any]:
    return dict(type='kdmm.CIFARShuffleNetV2', stem_kernel=stem_kernel, widen_factor=widen_factor)


def _dense(bottleneck: bool) -> dict[str, Any]:
    return dict(type='kdmm.CIFARDenseNet', depth=40, growth=12, bottleneck=bottleneck)


#: Backbones of HSSAKD, MCL, L-MCL, CRD and MCL-OKD. The last one is MMPretrain's.
CIFAR_PRESETS: dict[str, dict[str, Any]] = {
    'resnet20': _resnet(20),
    'resnet32': _resnet(32),
    'resnet56': _resnet(56),
    'resnet110_basic': _resnet(110),
    'resnet110_bottleneck': _resnet(110, 'bottleneck'),
    'resnet8x4': _resnet(8, widths=_X4),
    'resnet32x4': _resnet(32, widths=_X4),
    'wrn16_2': _wide(16, 2),
    'wrn40_1': _wide(40, 1),
    'wrn40_2': _wide(40, 2),
    'wrn28_4': _wide(28, 4),
    'vgg8': dict(type='kdmm.CIFARVGG', depth=8),
    'vgg13': dict(type='kdmm.CIFARVGG', depth=13),
    'vgg16': dict(type='kdmm.CIFARVGG', depth=16),
    'mobilenetv2_stride1': _mobile(1),
    'mobilenetv2_stride2': _mobile(2),
    'shufflenetv1': dict(type='kdmm.CIFARShuffleNetV1'),
    'shufflenetv2_1x1': _shuffle(1, 1.0),
    'shufflenetv2_3x3': _shuffle(3, 1.0),
    'shufflenetv2_half_3x3': _shuffle(3, 0.5),
    'densenet40_12': _dense(False),
    'densenet_bc40_12': _dense(True),
    'resnet50': dict(type='mmpretrain.ResNet_CIFAR', depth=50, zero_init_residual=False),
}


def cifar_backbone(name: str, **options: Any) -> dict[str, Any]:
    """The config of a preset.

    Args:
        name: A key of ``CIFAR_PRESETS``.
        options: More arguments of its backbone, for instance ``out_indices``.

    Raises:
        ConfigError: If there is no such preset; gives the nearest.
    """
    if name not in CIFAR_PRESETS:
        raise ConfigError(
            f'no such CIFAR network; {nearest(name, CIFAR_PRESETS)}', key='name', got=name
        )
    return {**CIFAR_PRESETS[name], **options}
