"""Pictures of what a network does."""

from kdmm.visualization.jigsaw import jigsaw_row, jigsaw_sheet

__all__ = ['jigsaw_row', 'jigsaw_sheet']
