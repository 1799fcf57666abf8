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
from .pruned_resnet import ConstantInputConv, PrunedBlock, narrow, pruned_resnet
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
    'ConstantInputConv',
    'PrunedBlock',
    'ResNetStaging',
    'Stage',
    'StagedBackbone',
    'Staging',
    'cifar_backbone',
    'narrow',
    'pruned_resnet',
    'recomputed',
    'staging_of',
]
