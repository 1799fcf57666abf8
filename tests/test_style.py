"""Style of docstrings and names that a linter does not check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('kdmm', 'tools', 'tests', 'benchmarks')
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob('*.py'))
}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md'), *ROOT.glob('configs/*/*.md')]
}
#: A first line says what something does, or names it.
QUESTIONS = {'how', 'what', 'when', 'where', 'whether', 'which', 'who', 'why'}
#: Former names of modules and classes; the field's are dry run, provenance, branches and so on.
OLD_NAMES = {'balance', 'ledger', 'meter', 'origin', 'teaching', 'trial', 'viewer'}
#: Sections of papers are named with the paper: ``arXiv 2104.12565, section 3``.
SECTION = re.compile(r'(?<!\d, )\bsections? \d|\bspecification\b', re.IGNORECASE)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(source: str) -> Iterator[Documented]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented):
            yield node


def questions(source: str) -> list[str]:
    """First lines that begin with an interrogative word."""
    found = [ast.get_docstring(node) or '' for node in documented(source)]
    first = [text.splitlines()[0] for text in found if text]
    return [line for line in first if line.split()[0].strip(',:.').lower() in QUESTIONS]


def test_first_lines_are_no_questions() -> None:
    found = {name: questions(source) for name, source in SOURCES.items()}
    assert not {name: lines for name, lines in found.items() if lines}


def test_questions_are_found() -> None:
    source = '"""What it is."""\nclass A:\n  """A."""\n  def f(self):\n    """Whether: so."""'
    assert questions(source) == ['What it is.', 'Whether: so.']


def test_no_reference_to_a_text_that_is_not_here() -> None:
    own = str(Path(__file__).relative_to(ROOT))
    found = {name: SECTION.findall(text) for name, text in {**SOURCES, **PAGES}.items()}
    assert not {name: words for name, words in found.items() if words and name != own}
    assert SECTION.search('see section 3') and not SECTION.search('arXiv 2104.12565, section 3')


def test_names_of_modules_and_classes() -> None:
    for name, source in SOURCES.items():
        assert Path(name).stem not in OLD_NAMES, name
        if name.startswith('kdmm/'):
            named = {n.name for n in documented(source) if not isinstance(n, ast.Module)}
            assert not {one.lower().strip('_') for one in named} & OLD_NAMES, name
