"""Distillation losses, one method a file."""

from .cirkd import CIRKDMemoryLoss, CIRKDMiniBatchLoss
from .kd import KDLoss

__all__ = ['CIRKDMemoryLoss', 'CIRKDMiniBatchLoss', 'KDLoss']
