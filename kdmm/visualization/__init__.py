"""Pictures of a network's inputs and predictions."""

from kdmm.visualization.jigsaw import jigsaw_row, jigsaw_sheet

__all__ = ['jigsaw_row', 'jigsaw_sheet']
