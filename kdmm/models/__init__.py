"""Networks that the base libraries lack."""

from .auxiliary import AuxiliaryBranch, AuxiliaryBranches
from .backbones import (
    CIFARVGG,
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
