"""Figures as text."""

from collections.abc import Mapping, Sequence
from typing import Any


def number(value: Any, digits: int = 2) -> str:
    """A cell; nothing measured is a dash."""
    return '-' if value is None else f'{value:.{digits}f}'


def shape(values: Mapping[str, int]) -> str:
    """``batch 2, height 64`` and so on, short."""
    return ' '.join(f'{name}={value}' for name, value in values.items())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, ['-' * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)
