"""The table printed when training starts: what is compared with what."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kdmm.distillers.bridge import describe
from kdmm.distillers.term import Term


def start_table(
    terms: Sequence[Term], student: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]]
) -> str:
    """Tap, teacher shape, student shape, connector, loss and weight of each term; queue memory."""
    rows = [('term', 'tap', 'teacher', 'student', 'connector', 'loss', 'weight')]
    for term in terms:
        rows.append(
            (
                term.name,
                term.on,
                shape_of(term.pick(teachers[term.teacher])),
                shape_of(term.pick(student)),
                describe(term.connector),
                type(term.loss).__name__,
                term.describe_weight(),
            )
        )
    lines = ['Distillation', *columns(rows)]
    stored = sum(getattr(term.loss, 'memory_bytes', int)() for term in terms)
    if stored:
        lines.append(f'queues: {stored / 2**20:.0f} MiB on each device')
    return '\n'.join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, '  '.join('-' * width for width in widths))
    return [line.rstrip() for line in lines]


def shape_of(value: Any) -> str:
    """As the table writes it, of each item of a tuple."""
    if isinstance(value, tuple | list):
        return ', '.join(shape_of(item) for item in value)
    return 'x'.join(map(str, value.shape)) if isinstance(value, Tensor) else type(value).__name__
