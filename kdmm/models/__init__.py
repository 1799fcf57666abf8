"""Networks that the base libraries lack."""

from .auxiliary import AuxiliaryBranch, AuxiliaryBranches
from .backbones import (
    CIFARVGG,
    CIFARDenseNet,
    CIFARMobileNetV2,
    CIFARResNet,
    CIFARShuffleNetV1,
    CIFARShuffleNetV2,
    CIFARWideResNet,
    Stage,
    StagedBackbone,
    cifar_backbone,
)
from .recompute import recomputed
from .staging import ResNetStaging, Staging, staging_of

__all__ = [
    'AuxiliaryBranch',
    'AuxiliaryBranches',
    'CIFARDenseNet',
    'CIFARMobileNetV2',
    'CIFARResNet',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARVGG',
    'CIFARWideResNet',
    'ResNetStaging',
    'Stage',
    'StagedBackbone',
    'Staging',
    'cifar_backbone',
    'recomputed',
    'staging_of',
]
