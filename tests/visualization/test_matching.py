"""The panels of a matching, cell by cell."""

import numpy as np
import pytest

from kdmm.visualization import matching_panel, matching_sheet
from kdmm.visualization.matching import CELL, MARGIN, TITLE, colours
from tests.errors import refused

ROWS = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def corners(panel: np.ndarray, down: int, across: int) -> np.ndarray:
    """Colours of cells beside their numbers, (down, across, 3)."""
    cells = panel[TITLE + MARGIN :, MARGIN:]
    return cells[2 : down * CELL : CELL, 2 : across * CELL : CELL]


def test_a_cell_has_the_colour_of_its_weight() -> None:
    weights = np.array([[0.3, 0.5, 0.7], [0.45, 0.4, 0.6]])
    panel = matching_panel(weights, 'a title')
    assert panel.dtype == np.uint8
    assert panel.shape == (TITLE + MARGIN + 2 * CELL, MARGIN + 3 * CELL, 3)
    assert np.array_equal(corners(panel, 2, 3), colours(weights))


def test_a_cell_has_its_number_and_the_panel_its_title() -> None:
    def middle(weight: float) -> np.ndarray:
        panel = matching_panel(np.array([[weight]]), '')
        return panel[TITLE + MARGIN :, MARGIN:]

    # 1.2 and 1.7 have one colour, the brightest: only the number differs
    assert np.array_equal(colours(np.array(1.2)), colours(np.array(1.7)))
    assert not np.array_equal(middle(1.2), middle(1.7))
    for weight in (0.3, 0.7):  # light on dark, dark on light
        found = middle(weight).astype(int)
        assert abs(found - found[2, 2]).sum(-1).max() > 300
    weights = np.array([[0.5, 0.5]])
    one, other = matching_panel(weights, 'one'), matching_panel(weights, 'other')
    assert np.array_equal(one[TITLE:], other[TITLE:]) and not np.array_equal(one, other)


def test_colours_tell_more_from_less_without_hue() -> None:
    """Luminance grows with the weight, and no colour is a red or a green."""
    found = colours(np.linspace(0.25, 0.75, 64)).astype(float)  # (64, 3)
    luminance = found @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all() and luminance[-1] - luminance[0] > 150
    # for who does not see red from green they are one channel: it and blue tell all apart
    assert (abs(found[:, 0] - found[:, 1]) < 80).all()
    ends = colours(np.array([-1.0, 0.25, 0.75, 2.0]))
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[2], ends[3])


def test_a_sheet_has_a_panel_for_each_ordered_pair() -> None:
    weights = np.random.default_rng(0).uniform(0.25, 0.75, (5, 5))
    sheet = matching_sheet(weights, ROWS)
    first = matching_panel(weights[:2, 2:], 'peer0 - peer1')  # 2 x 3 stages
    second = matching_panel(weights[2:, :2], 'peer1 - peer0')
    height, width, _ = first.shape
    assert sheet.shape == (height + second.shape[0], width, 3)
    assert np.array_equal(sheet[:height], first)
    assert np.array_equal(sheet[height:, : second.shape[1]], second)
    assert (sheet[height:, second.shape[1] :] == 255).all()


def test_a_row_of_the_sheet_has_all_pairs_of_a_network() -> None:
    weights = np.random.default_rng(1).uniform(0.25, 0.75, (6, 6))
    sheet = matching_sheet(weights, [(n, s) for n in range(3) for s in range(2)])
    panel = matching_panel(weights[2:4, 4:], 'peer1 - peer2')
    height, width, _ = panel.shape
    assert sheet.shape == (3 * height, 2 * width, 3)
    assert np.array_equal(sheet[height : 2 * height, width:], panel)


@pytest.mark.parametrize(
    ('size', 'rows'), [((5, 4), ROWS), ((4, 4), ROWS), ((2, 2), [(0, 0), (0, 1)])]
)
def test_what_is_no_matching_is_refused(size: tuple[int, int], rows: list[tuple[int, int]]) -> None:
    with refused(key='weights', expected='(A, A)'):
        matching_sheet(np.zeros(size), rows)
