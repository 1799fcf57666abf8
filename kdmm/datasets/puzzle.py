"""Jigsaw puzzles of an image: the grid, its permutations, and putting the patches back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdmm.errors import ConfigError, listed

META_KEYS = ('jigsaw_perm', 'jigsaw_grid', 'jigsaw_mode')
"""Keys of a puzzle in a data sample; ``PackPoseInputs`` needs them in its ``meta_keys``."""


@dataclass(frozen=True)
class PatchGrid:
    """``rows`` x ``cols`` equal patches of an image of ``width`` x ``height`` pixels.

    Cells are counted row by row. A permutation ``p`` says which patch each cell shows: cell ``s``
    of the shuffled image shows patch ``p[s]``, the one that lay in cell ``p[s]``.

    Raises:
        ConfigError: If the patches would not be equal or have no pixels.
    """

    rows: int
    cols: int
    width: int
    height: int

    def __post_init__(self) -> None:
        grid, size = (self.rows, self.cols), f'{self.width}x{self.height} (w x h)'
        if min(grid) < 1:
            raise ConfigError(key='grid', got=grid, expected='at least one row and one column')
        if self.rows > self.height or self.cols > self.width:
            raise ConfigError(f'an input of {size} has fewer pixels', key='grid', got=grid)
        for what, length, parts in (
            ('width', self.width, self.cols),
            ('height', self.height, self.rows),
        ):
            if length % parts:
                fit = [n for n in range(1, 17) if length % n == 0]
                raise ConfigError(
                    f'the input {size} has a {what} of {length}, not a multiple of {parts}',
                    key='grid',
                    got=grid,
                    fix=f'Choose one of {listed(fit, 16)}, which divide it.',
                )

    @property
    def count(self) -> int:
        """Number of patches, K."""
        return self.rows * self.cols

    @property
    def patch(self) -> tuple[int, int]:
        """Width and height of a patch in pixels."""
        return self.width // self.cols, self.height // self.rows

    def centres(self) -> np.ndarray:
        """Centres of the cells, (K, 2) float32: x, y in pixels of the input."""
        width, height = self.patch
        row, col = np.divmod(np.arange(self.count), self.cols)
        return np.stack([(col + 0.5) * width, (row + 0.5) * height], axis=1).astype(np.float32)

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Cells whose centres are nearest to ``points`` (..., 2), int64 (...)."""
        width, height = self.patch
        col = np.floor(points[..., 0] / width).clip(0, self.cols - 1)
        row = np.floor(points[..., 1] / height).clip(0, self.rows - 1)
        return (row * self.cols + col).astype(np.int64)

    def split(self, image: np.ndarray) -> np.ndarray:
        """Patches (K, ph, pw, C) of an image (H, W, C)."""
        width, height = self.patch
        tiles = image.reshape(self.rows, height, self.cols, width, -1).swapaxes(1, 2)
        return tiles.reshape(self.count, height, width, -1)

    def join(self, patches: np.ndarray) -> np.ndarray:
        """The image (H, W, C), C-contiguous, whose cells show ``patches`` (K, ph, pw, C)."""
        width, height = self.patch
        tiles = patches.reshape(self.rows, self.cols, height, width, -1).swapaxes(1, 2)
        return np.ascontiguousarray(tiles.reshape(self.height, self.width, -1))

    def shuffle(self, image: np.ndarray, permutation: np.ndarray) -> np.ndarray:
        """The image (H, W, C) whose cell ``s`` shows patch ``permutation[s]``."""
        return self.join(self.split(image)[permutation])

    def restore(self, image: np.ndarray, permutation: np.ndarray) -> np.ndarray:
        """Undo `shuffle`."""
        return self.shuffle(image, np.argsort(permutation))


def generator_of(seed: int, sample: int) -> np.random.RandomState:
    """The generator of one sample, the same on every machine and in every order.

    NumPy's legacy generator, whose stream is frozen.
    """
    return np.random.RandomState((seed * 1000003 + int(sample)) % 2**32)


def permutation_set(count: int, permutations: int | Sequence[Sequence[int]]) -> np.ndarray:
    """A fixed set of permutations, (N, count) int64.

    Args:
        count: Number of patches.
        permutations: The permutations themselves, or how many different ones to draw. A number
            always gives the same set.

    Raises:
        ConfigError: If they are no permutations, or there are not so many.
    """
    if not isinstance(permutations, int):
        rows = [list(row) for row in permutations]
        if not rows or any(sorted(row) != list(range(count)) for row in rows):
            raise ConfigError(
                key='permutations',
                got=permutations,
                expected=f'rows that each hold 0 to {count - 1} once',
            )
        return np.array(rows, dtype=np.int64)
    most = math.factorial(count)
    if not 1 <= permutations <= most:
        raise ConfigError(
            key='permutations',
            got=permutations,
            expected=f'1 to {most}, which are all of {count} patches',
        )
    random, found = np.random.RandomState(0), dict[bytes, np.ndarray]()
    while len(found) < permutations:
        row = random.permutation(count)
        found[row.tobytes()] = row
    return np.stack(list(found.values())).astype(np.int64)
