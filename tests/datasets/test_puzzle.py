"""Grids, permutations and their inverses; and numbers that NumPy will always draw."""

from typing import Any

import numpy as np
import pytest

from kdmm.datasets import PatchGrid
from kdmm.datasets.puzzle import generator_of, permutation_set
from tests.errors import refused

#: input (w, h) and grid (rows, columns)
VALID = [
    *(((192, 256), grid) for grid in ((2, 2), (4, 3), (4, 4), (8, 6))),
    *(((288, 384), grid) for grid in ((2, 2), (3, 3), (4, 3), (4, 4), (8, 6))),
]


@pytest.mark.parametrize(('size', 'grid'), VALID)
def test_putting_back_restores_to_the_bit(size: tuple[int, int], grid: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    puzzle, order = PatchGrid(*grid, *size), random.permutation(grid[0] * grid[1])
    shuffled = puzzle.shuffle(image, order)
    assert shuffled.shape == image.shape and shuffled.dtype == np.uint8
    assert shuffled.flags.c_contiguous
    assert not np.array_equal(shuffled, image)
    assert np.array_equal(puzzle.restore(shuffled, order), image)
    assert np.array_equal(np.sort(shuffled, axis=None), np.sort(image, axis=None))


def test_cells_show_the_patches_of_the_permutation() -> None:
    """Against slices written out by hand: no reshape, no transpose."""
    image = np.random.default_rng(1).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    grid, order = PatchGrid(2, 3, 9, 8), np.array([4, 2, 0, 5, 1, 3])
    shuffled = grid.shuffle(image, order)
    for cell, patch in enumerate(order):
        row, col = divmod(cell, 3)
        home_row, home_col = divmod(patch, 3)
        here = shuffled[4 * row : 4 * row + 4, 3 * col : 3 * col + 3]
        there = image[4 * home_row : 4 * home_row + 4, 3 * home_col : 3 * home_col + 3]
        assert np.array_equal(here, there)


def test_one_cell_changes_nothing() -> None:
    image = np.random.default_rng(2).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    assert np.array_equal(PatchGrid(1, 1, 4, 6).shuffle(image, np.array([0])), image)


def test_centres_and_their_cells() -> None:
    grid = PatchGrid(4, 3, 192, 256)
    centres = grid.centres()
    assert centres.dtype == np.float32 and centres.shape == (12, 2)
    assert centres[0].tolist() == [32, 32]
    assert centres[10].tolist() == [96, 224]
    assert np.array_equal(grid.nearest(centres), np.arange(12))
    corners = np.array([[0, 0], [63.9, 63.9], [64, 0], [191, 255], [400, 400], [-5, -5]])
    assert grid.nearest(corners).tolist() == [0, 0, 1, 11, 11, 0]


@pytest.mark.parametrize(
    ('grid', 'size', 'told'),
    [
        (
            (3, 3),
            (192, 256),
            dict(problem=('height of 256', 'multiple of 3'), fix='1, 2, 4, 8, 16'),
        ),
        ((4, 5), (192, 256), dict(problem=('width of 192', 'multiple of 5'))),
        ((4, 3), (2, 2), dict(problem=('2x2', 'fewer pixels'))),
        ((0, 3), (192, 256), dict(expected='at least one')),
    ],
)
def test_refuses_grids_that_do_not_fit(
    grid: tuple[int, int], size: tuple[int, int], told: dict[str, Any]
) -> None:
    with refused(key='grid', got=grid, **told):
        PatchGrid(*grid, *size)


@pytest.mark.parametrize(
    ('count', 'seed', 'sample', 'expected'),
    [
        (12, 0, 0, [6, 11, 4, 10, 2, 8, 1, 7, 9, 3, 0, 5]),
        (12, 0, 183, [9, 10, 3, 6, 0, 2, 8, 7, 4, 11, 1, 5]),
        (12, 2021, 42, [0, 8, 4, 3, 5, 1, 11, 6, 7, 9, 2, 10]),
        (4, 0, 0, [2, 3, 1, 0]),
    ],
)
def test_permutation_oracles(count: int, seed: int, sample: int, expected: list[int]) -> None:
    assert generator_of(seed, sample).permutation(count).tolist() == expected


def test_large_seeds_and_ids() -> None:
    """5000 * 1000003 + 7 is beyond 32 bits."""
    expected = np.random.RandomState(5000015007 - 2**32).permutation(12)
    assert np.array_equal(generator_of(5000, 7).permutation(12), expected)
    assert generator_of(2100, np.int64(2**31)).permutation(12).shape == (12,)
    expected = np.random.RandomState(3000 * 1000003).permutation(12)  # more than 31 bits
    assert np.array_equal(generator_of(3000, 0).permutation(12), expected)


def test_fixed_sets() -> None:
    first = permutation_set(12, 100)
    assert first.shape == (100, 12) and len({tuple(row) for row in first.tolist()}) == 100
    assert np.array_equal(first, permutation_set(12, 100))
    assert len(permutation_set(3, 6)) == 6  # all there are
    assert permutation_set(3, [[2, 0, 1]]).tolist() == [[2, 0, 1]]


@pytest.mark.parametrize('wrong', [7, 0, -1, [[0, 1, 1]], [[0, 1]], [], [[0, 1, 2], [1, 2, 3]]])
def test_refuses_what_is_no_set_of_permutations(wrong: object) -> None:
    with refused(key='permutations', got=wrong):
        permutation_set(3, wrong)  # type: ignore[arg-type]
