"""Distillation losses, one method a file."""

from .adversarial import AdversarialLoss
from .at import ATLoss
from .bank import BankLoss, BankNCELoss
from .base import Batch, DistillLoss, OwnedOptimizer
from .batch_relation import BatchRelationLoss
from .cc import CCLoss
from .cirkd import CIRKDMemoryLoss, CIRKDMiniBatchLoss
from .cirkd_channel import CIRKDChannelLoss
from .crd import CRDLoss
from .cwd import CWDLoss
from .dist import DISTLoss
from .dkd import DKDLoss
from .dsd import CSDLoss, PSDLoss
from .fitnet import FitNetLoss
from .ifvd import IFVDLoss
from .kd import BinaryKDLoss, KDLoss
from .layer_matching import LayerMatching
from .lmcl import LMCLBankLoss, LMCLLoss
from .mcl import EnsembleKDLoss, MCLLoss
from .mcl_bank import MCLBankLoss
from .mcl_okd import MCLOKDLoss
from .nst import NSTLoss
from .online import OKDDipLoss, ONELoss
from .pkt import PKTLoss
from .rkd import RKDLoss
from .skd import SKDLoss
from .sp import SPLoss
from .stage_ensemble import StageEnsembleLoss
from .vid import VIDLoss

__all__ = [
    'ATLoss',
    'AdversarialLoss',
    'BankLoss',
    'BankNCELoss',
    'Batch',
    'BatchRelationLoss',
    'BinaryKDLoss',
    'CCLoss',
    'CIRKDChannelLoss',
    'CIRKDMemoryLoss',
    'CIRKDMiniBatchLoss',
    'CRDLoss',
    'CSDLoss',
    'CWDLoss',
    'DISTLoss',
    'DKDLoss',
    'DistillLoss',
    'EnsembleKDLoss',
    'FitNetLoss',
    'IFVDLoss',
    'KDLoss',
    'LMCLBankLoss',
    'LMCLLoss',
    'LayerMatching',
    'MCLBankLoss',
    'MCLLoss',
    'MCLOKDLoss',
    'NSTLoss',
    'OKDDipLoss',
    'ONELoss',
    'OwnedOptimizer',
    'PKTLoss',
    'PSDLoss',
    'RKDLoss',
    'SKDLoss',
    'SPLoss',
    'StageEnsembleLoss',
    'VIDLoss',
]
