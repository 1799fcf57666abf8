#!/usr/bin/env python3
"""List what users of the package may rely on, read from the code.

    python tools/list_public_names.py           # writes the lists in docs/api.md
    python tools/list_public_names.py --check   # writes nothing; exit code 1 if they are old

Names that are importable are those of `__all__`. Registered names are followed by the arguments of
classes that have an `__init__` of kdmm's own, kinds of sections by their keys, and the teacher by
those of `kd.teacher`.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from draw_architecture import between, write_or_check

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'api.md'
#: Modules whose `__all__` is promised.
MODULES = (
    'kdmm',
    'kdmm.losses',
    'kdmm.functional',
    'kdmm.distillers',
    'kdmm.teachers',
    'kdmm.pruning',
    'kdmm.engine',
    'kdmm.transfer',
)


def python_names() -> str:
    """List module by module what may be imported; functions with their arguments."""
    lines = []
    for name in MODULES:
        module = import_module(name)
        lines.append(name)
        for public in sorted(module.__all__):
            value = getattr(module, public)
            told = inspect.isroutine(value) or name == 'kdmm.teachers'  # no config names its class
            lines.append(f'    {public}{_arguments(value) if told else ""}')
    return _block(lines)


def registered_names() -> str:
    """List registry by registry what a config may name; kinds of sections with their keys."""
    registries = import_module('kdmm.registry')
    lines = []
    for name, registry in sorted(vars(registries).items()):
        if name.startswith('MMENGINE') or not isinstance(registry, registries.Registry):
            continue
        registry.import_from_location()
        lines.append(name)
        for public, value in sorted(registry.module_dict.items()):
            if not _is_ours(registries.OBJECTIVES.module_dict.get(public, value)):
                continue  # a script's or a test's
            if name == 'OBJECTIVES':
                taken = _listed(value.section_keys().values())
            else:
                taken = _arguments(value) if inspect.isclass(value) else ''
            lines.append(f'    {public}{taken}')
    return _block(lines)


def commands() -> str:
    """List what may follow `kdmm` on a command line."""
    found: Mapping[str, Any] = import_module('kdmm.__main__').COMMANDS
    return _block(f'kdmm {name}' for name in found)


def _is_ours(value: Any) -> bool:
    return str(getattr(value, '__module__', '')).startswith('kdmm.')


def _arguments(value: Any) -> str:
    """The arguments of a function, or of a class that says them itself."""
    made = value.__init__ if inspect.isclass(value) else value
    if not _is_ours(made):
        return ''
    return _listed(p for p in inspect.signature(made).parameters.values() if p.name != 'self')


def _listed(parameters: Iterable[inspect.Parameter]) -> str:
    marks: dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: '*',
        inspect.Parameter.VAR_KEYWORD: '**',
    }
    return f'({", ".join(marks.get(p.kind, "") + p.name for p in parameters)})'


def _block(lines: Iterable[str]) -> str:
    return '\n'.join(['```', *lines, '```'])


def written() -> str:
    """The page as it should be."""
    page = PAGE.read_text()
    for name, content in dict(
        python=python_names(), registered=registered_names(), commands=commands()
    ).items():
        page = between(page, name, content)
    return page


def main() -> int:
    """List, or compare."""
    return write_or_check(__doc__ or '', lambda: {PAGE: written()})


if __name__ == '__main__':
    sys.exit(main())
