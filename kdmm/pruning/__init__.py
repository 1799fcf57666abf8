"""Soft filter pruning, and extraction of the smaller network with its proof and its figures."""

from kdmm.pruning.counting import Count, count
from kdmm.pruning.equality import Difference, compare
from kdmm.pruning.extraction import EXACT, MODES, Extraction, extract
from kdmm.pruning.schedule import METHODS, PruningSchedule
from kdmm.pruning.selection import Prunable, select_prunable
from kdmm.pruning.update import finalize, lowest, prune, zero_count, zero_filters

__all__ = [
    'EXACT',
    'METHODS',
    'MODES',
    'Count',
    'Difference',
    'Extraction',
    'Prunable',
    'PruningSchedule',
    'compare',
    'count',
    'extract',
    'finalize',
    'lowest',
    'prune',
    'select_prunable',
    'zero_count',
    'zero_filters',
]
