"""Pictures of a network's inputs and predictions, and of what a cohort has learnt."""

from kdmm.visualization.jigsaw import jigsaw_row, jigsaw_sheet
from kdmm.visualization.matching import matching_panel, matching_sheet

__all__ = ['jigsaw_row', 'jigsaw_sheet', 'matching_panel', 'matching_sheet']
