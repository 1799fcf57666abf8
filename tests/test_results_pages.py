"""The differences on the results pages are those of the figures of each seed beside them."""

from pathlib import Path

import pytest

from kdmm.utils.statistics import paired_difference

PAGES = sorted((Path(__file__).parents[1] / 'docs/results').glob('*.md'))
GAIN = ['gain', '95% interval', 'n']


def tables(text: str) -> list[list[list[str]]]:
    """Cells of all tables, without the line under the head."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith('|'):
            inside = False
            continue
        if not inside:
            found.append([])
        inside = True
        if not line.startswith('|---'):
            cells = line.removeprefix('|').removesuffix('|').split('|')
            found[-1].append([cell.strip(' *') for cell in cells])
    return found


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_gains_follow_from_the_seeds(page):
    compared = [table for table in tables(page.read_text()) if 'gain' in table[0]]
    assert compared
    for head, first, *others in compared:
        at = head.index('gain')
        assert head[at : at + 3] == GAIN and first[at : at + 3] == ['', '', '']
        seeds = [place for place, name in enumerate(head) if name.startswith('seed ')]
        digits = len(first[seeds[0]].partition('.')[2])
        baseline = [float(first[place]) for place in seeds]
        for row in others:
            found = paired_difference([float(row[place]) for place in seeds], baseline)
            assert row[at : at + 3] == list(found.cells(digits)), row[0]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_no_difference_is_given_with_a_deviation_alone(page):
    cells = [cell for table in tables(page.read_text()) for row in table for cell in row]
    assert not [cell for cell in cells if '±' in cell and cell.startswith(('+', '-'))]
