"""Soft filter pruning: schedules, choice of layers, updates."""

from kdmm.pruning.schedule import METHODS, PruningSchedule
from kdmm.pruning.selection import Prunable, select_prunable
from kdmm.pruning.update import finalize, lowest, prune, zero_filters

__all__ = [
    'METHODS',
    'Prunable',
    'PruningSchedule',
    'finalize',
    'lowest',
    'prune',
    'select_prunable',
    'zero_filters',
]
