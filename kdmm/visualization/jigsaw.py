"""A sheet of puzzles: the crop, its puzzle, the prediction, the restored image."""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from kdmm.datasets import PatchGrid
from kdmm.evaluation.jigsaw import cells_of, check_sample

RIGHT, WRONG, EMPTY, MARGIN = (60, 180, 75), (220, 50, 47), 128, 4
"""Colours in RGB; grey of cells that no patch was given; pixels between pictures."""
COLUMNS = ('crop', 'puzzle', 'prediction', 'put together')


def jigsaw_sheet(images: Iterable[Tensor], samples: Iterable[Any]) -> np.ndarray:
    """One row a sample under a line of headings, (H, W, 3) uint8 RGB.

    Args:
        images: Network inputs before normalisation, (3, h, w) uint8 BGR each.
        samples: Data samples of `ShufflePatches` with predicted heatmaps.
    """
    rows = [jigsaw_row(image, sample) for image, sample in zip(images, samples, strict=True)]
    head = np.full((18, rows[0].shape[1], 3), 255, np.uint8)
    width = (rows[0].shape[1] + MARGIN) // len(COLUMNS)
    for number, text in enumerate(COLUMNS):
        _write(head, text, (number * width + 2, 13), (0, 0, 0))
    gap = np.full((MARGIN, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([head, *(part for row in rows for part in (row, gap))])


def jigsaw_row(image: Tensor, sample: Any) -> np.ndarray:
    """The four pictures of one sample beside each other, (h, 4 w + margins, 3) uint8 RGB."""
    fields = sample.to_dict()
    check_sample(fields)
    grid = PatchGrid(*fields['jigsaw_grid'], *fields['input_size'])
    order = np.asarray(fields['jigsaw_perm'])
    puzzle = np.ascontiguousarray(image.cpu().numpy()[::-1].transpose(1, 2, 0))  # RGB
    cells, found = cells_of(fields['pred_fields']['heatmaps'], grid)
    # pairs (cell of the puzzle, patch that the network takes it for)
    channels = np.arange(grid.count)
    pairs = (cells, channels) if fields['jigsaw_mode'] == 'identity' else (channels, cells)
    beliefs = [(int(cell), int(patch)) for cell, patch in zip(*pairs, strict=True)]
    beliefs = [pair for pair, sure in zip(beliefs, found, strict=True) if sure]
    pictures = [
        grid.restore(puzzle, order),
        puzzle,
        _annotate(puzzle.copy(), beliefs, grid, order),
        _put_together(puzzle, beliefs, grid),
    ]
    gap = np.full((grid.height, MARGIN, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _annotate(
    picture: np.ndarray, beliefs: list[tuple[int, int]], grid: PatchGrid, order: np.ndarray
) -> np.ndarray:
    """Each cell with the patches it is taken for; green where the right one is among them."""
    width, height = grid.patch
    for cell, (x, y) in enumerate(grid.centres() - np.array([width, height]) / 2):
        left, top = int(x), int(y)
        patches = [patch for where, patch in beliefs if where == cell]
        colour = RIGHT if order[cell] in patches else WRONG
        corner = (left + width - 2, top + height - 2)
        cv2.rectangle(picture, (left + 1, top + 1), corner, colour, 1)
        _write(picture, ' '.join(map(str, patches)), (left + 3, top + height // 2 + 4), colour)
    return picture


def _put_together(
    puzzle: np.ndarray, beliefs: list[tuple[int, int]], grid: PatchGrid
) -> np.ndarray:
    tiles = grid.split(puzzle)
    cells = np.full_like(tiles, EMPTY)
    for cell, patch in beliefs:
        cells[patch] = tiles[cell]
    return grid.join(cells)


def _write(picture: np.ndarray, text: str, at: tuple[int, int], colour: Any) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    if picture.shape[0] > 18:  # on a photo: a light rim
        cv2.putText(picture, text, at, font, 0.35, (255, 255, 255), 3, cv2.LINE_AA)
    cv2.putText(picture, text, at, font, 0.35, colour, 1, cv2.LINE_AA)
