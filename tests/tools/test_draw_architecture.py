"""The rules of the house: imports, files that a step enters, and the pages about them."""

import ast
import re
from functools import cache
from pathlib import Path

import draw_architecture as house
import pytest

PAGES = {page.name: page.read_text() for page in (house.PAGE, house.ROOT / 'CONTRIBUTING.md')}


@cache
def rooms() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    return house.read_rooms()


# The rules


def test_imports_lead_down() -> None:
    between, below = rooms()
    assert house.upward(between, house.FLOORS) == []
    assert house.upward(below, house.GROUND_FLOORS) == []


def test_no_file_imports_itself_by_a_detour() -> None:
    assert house.circles(house.file_graph(house.modules_of(house.PACKAGE))) == []


def test_functional_uses_next_to_nothing() -> None:
    graph = house.file_graph(house.modules_of(house.PACKAGE))
    used = {house.part_of(t) for m, targets in graph.items() for t in targets
            if house.part_of(m) == 'functional'}  # fmt: skip
    assert used <= {'functional', *house.FUNCTIONAL}


@pytest.mark.parametrize('losses, most', [(house.LOGIT_KD, 10), (house.CIRKD, 18)])
def test_a_step_enters_few_files(losses: dict[str, dict[str, object]], most: int) -> None:
    files = house.files_of_step(losses).files
    assert {'distillers/objective.py', 'losses/kd.py', 'teachers/teacher.py'} <= set(files)
    assert len(files) <= most, files


def test_few_files_are_small_and_have_one_importer() -> None:
    found = house.small_files(60)
    assert len(found) <= 5, found


# The pages


def test_pictures_and_lists_are_those_of_the_code() -> None:
    old = [str(path.relative_to(house.ROOT)) for path in house.out_of_date(house.drawn())]
    assert old == [], 'run python tools/draw_architecture.py'


@pytest.mark.parametrize('name', PAGES)
def test_places_that_pages_name_exist(name: str) -> None:
    text = PAGES[name].partition('## What is to come')[0]
    places = re.findall(r'`([\w/]+\.py)(?:: ([\w.]+))?`', text)
    assert len(places) >= 8
    missing = [place for place in places if not _has(*place)]
    assert missing == []


def test_numbers_in_the_text_are_those_of_the_picture() -> None:
    number = {}
    for row in house.files_of_step(house.CIRKD).forward:
        number.setdefault(row.file, len(number) + 1)
    found = re.findall(r'`([\w/]+\.py): [\w.]+` \((\d+)\)', PAGES[house.PAGE.name])
    assert {file for file, _ in found} == set(number)
    assert [(file, int(told)) for file, told in found if number[file] != int(told)] == []


def test_what_is_to_come_is_not_there() -> None:
    """A file that has come leaves the list."""
    text = PAGES[house.PAGE.name].partition('## What is to come')[2]
    rows = re.findall(r'^\| (`.*?) \|', text, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r'`([\w/]+\.py)`(?! \(grows\))', row)]
    assert names
    assert [name for name in names if _file(name).is_file()] == []


def _file(name: str) -> Path:
    inside = house.PACKAGE / name
    return inside if inside.is_file() else house.ROOT / name


def _has(file: str, name: str) -> bool:
    """Return True if a file has a function, class, method or constant of that name."""
    if not _file(file).is_file():
        return False
    nodes: list[ast.stmt] = ast.parse(_file(file).read_text()).body
    for part in name.split('.') if name else []:
        named = [n for n in nodes if getattr(n, 'name', None) == part or part in _assigned(n)]
        if not named:
            return False
        nodes = getattr(named[-1], 'body', [])
    return True


def _assigned(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


# The script


def test_imports_are_read() -> None:
    text = (
        'import kdmm.a\n'
        'from typing import TYPE_CHECKING\n'
        'if TYPE_CHECKING:\n    from kdmm import types\nelse:\n    from kdmm import other\n'
        'def f():\n    from ..b import c\n    from . import d\n'
    )
    inside = set(house.imports_of(text, 'kdmm.room.file', False))
    assert inside == {'kdmm.a', 'typing.TYPE_CHECKING', 'kdmm.other', 'kdmm.b.c', 'kdmm.room.d'}
    package = set(house.imports_of('from .e import f', 'kdmm.room', True))
    assert package == {'kdmm.room.e.f'}


def test_circles_and_ways_up_are_found() -> None:
    graph = dict(a={'b'}, b={'c'}, c={'b', 'd'}, d=set())
    assert house.circles(graph) == [['b', 'c']]
    assert house.upward(graph, [['a'], ['b', 'c'], ['e']]) == [
        'd has no floor', 'b imports c', 'c imports b',
    ]  # fmt: skip
    assert house.shortest(dict(a={'b', 'c'}, b={'c'}, c=set()))['a'] == {'b'}


def test_a_page_without_markers_is_refused() -> None:
    page = 'x\n<!-- a: written by a script -->\nold\n<!-- end of a -->\n'
    assert 'new\n<!-- end' in house.between(page, 'a', 'new')
    with pytest.raises(ValueError, match='markers'):
        house.between(page, 'b', 'new')
