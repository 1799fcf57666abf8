"""Backbones for small images, one family a file."""

from .densenet import CIFARDenseNet
from .mobilenet_v2 import CIFARMobileNetV2
from .presets import CIFAR_PRESETS, cifar_backbone
from .resnet import CIFARResNet
from .shufflenet_v1 import CIFARShuffleNetV1
from .shufflenet_v2 import CIFARShuffleNetV2
from .staged import Stage, StagedBackbone
from .vgg import CIFARVGG
from .wide_resnet import CIFARWideResNet

__all__ = [
    'CIFAR_PRESETS',
    'CIFARDenseNet',
    'CIFARMobileNetV2',
    'CIFARResNet',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARVGG',
    'CIFARWideResNet',
    'Stage',
    'StagedBackbone',
    'cifar_backbone',
]
