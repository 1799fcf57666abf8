"""Filter pruning: extraction of the smaller network, its proof and its figures."""

from kdmm.pruning.counting import Count, count
from kdmm.pruning.equality import Difference, compare
from kdmm.pruning.extraction import EXACT, MODES, Extraction, extract

__all__ = [
    'EXACT',
    'MODES',
    'Count',
    'Difference',
    'Extraction',
    'compare',
    'count',
    'extract',
]
