#!/usr/bin/env python3
"""Draw how the package is built, read from its sources and from a training step.

    python tools/draw_architecture.py           # writes pictures and lists in docs/
    python tools/draw_architecture.py --check   # writes nothing; exit code 1 if they are old

A room is a folder of `kdmm/`; the modules beside the folders are the ground floor, together with
`compat` and `utils`. Imports inside functions count; those for type checkers alone do not. The step
is one of CIRKD on two tiny networks, watched by `sys.setprofile`. The lists stand in
`docs/architecture.md` between markers, so that a change of them can be read in a diff.
"""

import argparse
import ast
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'kdmm'
PAGE = ROOT / 'docs' / 'architecture.md'

#: The floors from the top down. A room imports rooms of lower floors only.
FLOORS = (
    ('tools',),
    ('transfer', 'deploy'),
    ('engine',),
    ('hooks',),
    ('distillers', 'visualization', 'pretrained', 'pruning'),
    ('teachers', 'losses', 'evaluation'),
    ('models', 'memory', 'datasets'),
    ('functional',),
    ('ground floor',),
)
GROUND = 'ground floor'
#: The floors of the ground floor's own modules and folders, likewise.
GROUND_FLOORS = (
    ('config', 'checkpoints', 'schedules', 'taps'),
    ('compat', 'downloads', 'registry', 'renamed', 'utils'),
    ('errors',),
)
#: A folder that uses nothing of the ground floor but these.
FUNCTIONAL = {'errors', 'renamed'}
#: In the picture: column, and a few words.
PLACES = {
    'tools': (1.9, 'commands'),
    'transfer': (1.15, 'convert a backbone'),
    'deploy': (2.65, 'export a network'),
    'engine': (1.9, 'run, measure, launch'),
    'hooks': (1.9, 'around the steps'),
    'distillers': (1.15, 'objectives and terms'),
    'visualization': (2.65, 'pictures'),
    'pretrained': (3.8, 'know a backbone'),
    'pruning': (4.9, 'smaller networks'),
    'teachers': (0.0, 'load, run, hash'),
    'losses': (1.3, 'a method a file'),
    'evaluation': (2.75, 'metrics'),
    'models': (0.35, 'networks'),
    'memory': (1.5, 'queues and banks'),
    'datasets': (2.75, 'data, transforms'),
    'functional': (1.5, 'tensors in and out'),
}


# The rooms


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted name to file of every module, packages by their own name."""
    found = {}
    for path in sorted(package.rglob('*.py')):
        parts = path.relative_to(package.parent).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def imports_of(text: str, module: str, is_package: bool) -> Iterator[str]:
    """Yield what a module imports, ``from a import b`` as ``a.b``, relative names resolved."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            own = module.split('.')
            base = own[: len(own) - node.level + is_package] if node.level else []
            base += [node.module] if node.module else []
            yield from ('.'.join([*base, alias.name]) for alias in node.names)
        typing_only = isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)
        for child in node.orelse if typing_only else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
            yield from walk(child)

    yield from walk(ast.parse(text))


def file_graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module to the modules of the same package that it imports."""
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for found in imports_of(path.read_text(), name, path.name == '__init__.py'):
            target = found
            while target and target not in modules:
                target = target.rpartition('.')[0]
            # a package's own name stands for its __init__, which any module in it may follow
            if target and target != name and not name.startswith(f'{target}.'):
                graph[name].add(target)
    return graph


def part_of(module: str) -> str:
    """The folder of a module, or its own name where it lies beside the folders."""
    first = module.split('.')[1:2]
    return 'tools' if first in ([], ['__main__']) else first[0]


def room_of(module: str) -> str:
    """The room of a module; the package itself and its command belong to the tools."""
    part = part_of(module)
    return GROUND if any(part in floor for floor in GROUND_FLOORS) else part


def read_rooms() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Imports between rooms, and between the parts of the ground floor; nothing imports itself."""
    rooms: dict[str, set[str]] = defaultdict(set)
    parts: dict[str, set[str]] = defaultdict(set)
    modules = modules_of(PACKAGE)
    for module, targets in file_graph(modules).items():
        if module == PACKAGE.name:
            continue  # it imports a room when it is asked for
        for target in targets:
            rooms[room_of(module)].add(room_of(target))
            if room_of(module) == room_of(target) == GROUND:
                parts[part_of(module)].add(part_of(target))
    for path in sorted((ROOT / 'tools').rglob('*.py')):
        for found in imports_of(path.read_text(), path.stem, False):
            if found.startswith(f'{PACKAGE.name}.') and found.count('.') > 1:
                rooms['tools'].add(room_of(found))
    return _without_self(rooms), _without_self(parts)


def _without_self(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    every = sorted({*graph, *(other for targets in graph.values() for other in targets)})
    return {name: graph.get(name, set()) - {name} for name in every}


def upward(graph: Mapping[str, set[str]], floors: Sequence[Sequence[str]]) -> list[str]:
    """Imports that do not lead to a lower floor, and rooms that have no floor, as text."""
    level = {room: number for number, floor in enumerate(floors) for room in floor}
    wrong = [f'{room} has no floor' for room in graph if room not in level]
    wrong += [
        f'{room} imports {other}'
        for room, targets in graph.items()
        for other in sorted(targets)
        if room in level and other in level and level[room] >= level[other]
    ]
    return wrong


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other."""
    reach = {node: _reached(graph, node) for node in graph}
    groups = {tuple(sorted(o for o in reach[n] if n in reach.get(o, ()))) for n in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph.get(waiting.pop(), ()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def shortest(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same graph without the edges that longer ways stand for."""
    return {
        node: {a for a in targets if not any(a in _reached(graph, b) for b in targets - {a})}
        for node, targets in graph.items()
    }


def small_files(most: int = 60) -> list[tuple[str, int, str]]:
    """Modules of at most ``most`` lines with one importer: name, lines and the importer.

    A package's ``__init__`` that hands names on is no importer, nor is it counted itself.
    """
    modules = modules_of(PACKAGE)
    importers: dict[str, set[str]] = defaultdict(set)
    for name, targets in file_graph(modules).items():
        if modules[name].name != '__init__.py':
            for target in targets:
                importers[target].add(name)
    found = []
    for name, path in modules.items():
        lines = len(path.read_text().splitlines())
        if path.name != '__init__.py' and lines <= most and len(importers[name]) == 1:
            found.append((name, lines, min(importers[name])))
    return found


# A step


class TinySegmentor(BaseModel):
    """A stem, a head and a cross-entropy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 4, 1)
        self.head = nn.Conv2d(width, 5, 1)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Logits (B, 5, H / 4, W / 4), or the loss."""
        logits = self.head(self.stem(inputs).relu())
        if mode != 'loss':
            return logits
        labels = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        return dict(loss_ce=nn.functional.cross_entropy(logits, labels[:, ::4, ::4]))


LOGIT_KD: dict[str, dict[str, Any]] = dict(kd=dict(type='KDLoss', on='logits'))
CIRKD: dict[str, dict[str, Any]] = dict(
    **LOGIT_KD,
    p2p=dict(type='CIRKDMiniBatchLoss', on='pixels'),
    memory=dict(
        type='CIRKDMemoryLoss',
        on='pixels',
        num_classes=5,
        pixel_size=64,
        region_size=16,
        pixel_keys=16,
        region_keys=8,
        weight=dict(pixel=0.1, region=0.1),
    ),
)


class Row(NamedTuple):
    """A file that a pass enters for the first time, or one on the way to such a file.

    Attributes:
        depth: How many files lie between the step and this one.
        file: Below the package.
        function: That is called in it.
        again: Whether it was entered before.
    """

    depth: int
    file: str
    function: str
    again: bool


class Step(NamedTuple):
    """The files of a step, each pass as a tree in the order in which it enters them."""

    forward: list[Row]
    backward: list[Row]

    @property
    def files(self) -> list[str]:
        """Each file once, sorted."""
        return sorted({row.file for row in (*self.forward, *self.backward)})


def files_of_step(losses: Mapping[str, Mapping[str, Any]]) -> Step:
    """Take two steps of distillation with these terms, and watch the second."""
    from kdmm.distillers import distill

    every = dict(logits='head.out', pixels='head.in')
    read = {config['on'] for config in losses.values()}
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        student = distill(
            TinySegmentor(8),
            teacher=dict(model=dict(type=TinySegmentor, width=16), random=True),
            taps={name: path for name, path in every.items() if name in read},
            losses={name: dict(config) for name, config in losses.items()},
            probe_size=(32, 32),
            measure=False,
        ).train()
        images = torch.randn(2, 3, 32, 32)
        samples = [BaseDataElement(), BaseDataElement()]
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 32, 32)))
        for _ in range(2):
            step = Step([], [])
            with _watched(step.forward):
                found = student(images, samples, mode='loss')
            total = torch.stack([value for name, value in found.items() if 'loss' in name]).sum()
            with _watched(step.backward):
                total.backward()
    return step


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the table at the start, which is not what is looked at, off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _watched(rows: list[Row]) -> Iterator[None]:
    """Note the files of the package that are entered inside, each once, below who enters it."""
    seen: set[str] = set()
    path: list[str] = []  # the files from the step to the row that was noted last

    def see(frame: FrameType, event: str, _: Any) -> None:
        file = _own(frame)
        if event != 'call' or file is None or file in seen:
            return
        chain = _callers(frame)
        files = [name for name, _ in chain]
        while path != files[: len(path)]:
            path.pop()
        for name, function in chain[len(path) :]:
            rows.append(Row(len(path), name, function, name in seen))
            path.append(name)
            seen.add(name)

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(before)


def _callers(frame: FrameType) -> list[tuple[str, str]]:
    """The files of the package from the step to a frame, each with the function called."""
    chain: list[tuple[str, str]] = []
    here: FrameType | None = frame
    while here is not None:
        file = _own(here)
        if file is not None:
            if chain and chain[-1][0] == file:
                chain.pop()
            chain.append((file, here.f_code.co_name))
        here = here.f_back
    return chain[::-1]


def _own(frame: FrameType) -> str | None:
    """The file of a frame below the package, None for another's."""
    path = frame.f_code.co_filename
    start = f'{PACKAGE}/'
    return path.removeprefix(start) if path.startswith(start) else None


def about(path: Path) -> str:
    """The first line of a module's docstring, without marks."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ''
    return text.partition('\n')[0].replace('`', '')


# The pictures: black on white and grey, so that no colour has to be told from another

_STYLE = (
    'text{font-family:DejaVu Sans,Verdana,sans-serif;fill:#111}'
    '.n{font-size:15px;font-weight:bold}.s{font-size:12px}.m{font-size:12px;fill:#444}'
    '.b{fill:#fff;stroke:#222;stroke-width:1.4}.g{fill:#e8eef4;stroke:#222;stroke-width:1.4}'
    '.e{stroke:#222;stroke-width:1.3;fill:none}'
)


def _svg(width: float, height: float, title: str, body: Iterable[str]) -> str:
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f'<title>{escape(title)}</title>',
            f'<style>{_STYLE}</style>',
            '<defs><marker id="a" markerWidth="10" markerHeight="8" refX="9" refY="4" '
            'orient="auto"><path d="M0,0 L10,4 L0,8 z" fill="#222"/></marker></defs>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *body,
            '</svg>\n',
        ]
    )


def _text(x: float, y: float, kind: str, text: str, anchor: str = 'start') -> str:
    return (
        f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def draw_rooms(graph: Mapping[str, set[str]]) -> str:
    """Boxes on floors, and the imports between them that no longer way stands for."""
    wide, high, step_x, step_y, edge = 150.0, 46.0, 172.0, 82.0, 24.0
    centre = {
        room: (edge + wide / 2 + PLACES[room][0] * step_x, edge + high / 2 + number * step_y)
        for number, floor in enumerate(FLOORS)
        for room in floor
        if room in PLACES
    }
    width = max(x for x, _ in centre.values()) + wide / 2 + edge
    ground = edge + (len(FLOORS) - 1) * step_y
    body = []
    for room, targets in shortest(graph).items():
        for other in sorted(targets - {GROUND}):
            (x1, y1), (x2, y2) = centre[room], centre[other]
            lean = max(-50.0, min(50.0, (x2 - x1) / 4))
            body.append(
                f'<path class="e" marker-end="url(#a)" d="M{x1 + lean:.0f},{y1 + high / 2:.0f} '
                f'L{x2 - lean:.0f},{y2 - high / 2:.0f}"/>'
            )
    for room, (x, y) in centre.items():
        body.append(
            f'<rect class="b" x="{x - wide / 2:.0f}" y="{y - high / 2:.0f}" width="{wide:.0f}" '
            f'height="{high:.0f}" rx="5"/>'
        )
        body.append(_text(x, y - 3, 'n', room, 'middle'))
        body.append(_text(x, y + 15, 's', PLACES[room][1], 'middle'))
    body.append(
        f'<rect class="g" x="{edge:.0f}" y="{ground:.0f}" width="{width - 2 * edge:.0f}" '
        'height="88" rx="5"/>'
    )
    body.append(_text(edge + 12, ground + 22, 'n', 'ground floor, which every room may import'))
    for number, floor in enumerate(GROUND_FLOORS):
        body.append(_text(edge + 12, ground + 42 + 18 * number, 's', ', '.join(floor)))
    return _svg(width, ground + 88 + edge, 'Rooms of kdmm and their imports', body)


def draw_step(step: Step) -> str:
    """A line a row, set in below the file that enters it."""
    high, indent, second, width = 22.0, 18.0, 480.0, 1120.0
    body = [
        _text(
            16,
            26,
            's',
            'Bold: the maths and state of the method. Numbered: entered for the first time. '
            'Grey: gone through again on the way to a new file.',
        )
    ]
    y, number = 64.0, 0
    for title, rows in (
        ('forward: student(images, samples, mode="loss")', step.forward),
        ('backward: of the sum of all losses', step.backward),
    ):
        body.append(_text(16, y, 'n', title))
        above: list[tuple[float, float]] = []
        for row in rows:
            y += high
            x = 46 + indent * row.depth
            del above[row.depth :]
            if above:
                left, top = above[-1]
                body.append(
                    f'<path class="e" d="M{left + 5:.0f},{top + 5:.0f} V{y - 4:.0f} H{x - 3:.0f}"/>'
                )
            above.append((x, y))
            number += not row.again
            if not row.again:
                body.append(_text(36, y, 'm', str(number), 'end'))
                body.append(_text(second, y, 'm', about(PACKAGE / row.file)))
            bold = row.file.startswith(('losses/', 'functional/', 'memory/')) and not row.again
            body.append(
                f'<text class="{"m" if row.again else "s"}" x="{x:.0f}" y="{y:.0f}">'
                f'<tspan font-weight="{"bold" if bold else "normal"}">{escape(row.file)}</tspan>'
                f'<tspan fill="#444">  {escape(row.function)}</tspan></text>'
            )
        y, number = y + 2 * high, 0
    return _svg(width, y - high, 'Files of kdmm that a CIRKD step enters, in order', body)


# The lists in the page


def list_rooms(graph: Mapping[str, set[str]]) -> str:
    """A table: room, first line of its docstring, and its imports."""
    lines = ['| room | what it holds | imports |', '|---|---|---|']
    for floor in FLOORS:
        for room in floor:
            if room == GROUND:
                continue
            folder = PACKAGE / room / '__init__.py'
            said = (
                about(folder) if folder.is_file() else 'The commands: scripts, and `kdmm.__main__`.'
            )
            others = [r for f in FLOORS for r in f if r in graph[room] and r != GROUND]
            lines.append(f'| `{room}` | {said} | {", ".join(others) or "ground floor only"} |')
    return '\n'.join(lines)


def list_step(step: Step) -> str:
    """Each pass as a tree of files, with the function by which each is entered."""
    lines = []
    for title, rows in (('forward', step.forward), ('backward', step.backward)):
        lines.append(title)
        for row in rows:
            name = f'{"  " * (row.depth + 1)}{row.file}'
            lines.append(f'{name:<46}{row.function}{"  (again)" * row.again}')
    return '\n'.join(['```', *lines, '```'])


def between(page: str, name: str, content: str) -> str:
    """``page`` with other content between the markers of that name.

    Raises:
        ValueError: If there are no such markers.
    """
    start, end = f'<!-- {name}: written by a script -->\n', f'\n<!-- end of {name} -->'
    pattern = re.compile(re.escape(start) + '.*?' + re.escape(end), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f'no single pair of markers {start.strip()} ... {end.strip()}')
    return pattern.sub(lambda _: f'{start}{content}{end}', page)


def drawn() -> dict[Path, str]:
    """File to the text that it should have."""
    rooms, _ = read_rooms()
    step = files_of_step(CIRKD)
    page = between(PAGE.read_text(), 'rooms', list_rooms(rooms))
    return {
        PAGE: between(page, 'step', list_step(step)),
        PAGE.with_name('rooms.svg'): draw_rooms(rooms),
        PAGE.with_name('cirkd_step.svg'): draw_step(step),
    }


def out_of_date(files: Mapping[Path, str]) -> list[Path]:
    """Those that do not have the text that they should have."""
    return [path for path, text in files.items() if not path.is_file() or path.read_text() != text]


def write_or_check(description: str, make: Callable[[], Mapping[Path, str]]) -> int:
    """Write files that are made from the code, or with ``--check`` compare them.

    Args:
        description: Of the command.
        make: Gives the text of each file.

    Returns:
        The exit code: 1 if a file that was compared is out of date.
    """
    parser = argparse.ArgumentParser(description=description.partition('\n')[0])
    parser.add_argument('--check', action='store_true', help='write nothing, compare')
    check = parser.parse_args().check
    sys.path.insert(0, str(ROOT))  # the package beside this script, not an installed one
    files = make()
    changed = out_of_date(files)
    for path in changed:
        print(f'{path.relative_to(ROOT)} {"is out of date" if check else "written"}')
        if not check:
            path.write_text(files[path])
    return int(check and bool(changed))


def main() -> int:
    """Draw, or compare."""
    return write_or_check(__doc__ or '', drawn)


if __name__ == '__main__':
    sys.exit(main())
