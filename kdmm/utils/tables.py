"""Tables: plain text for logs and pipes, rich for terminals, Markdown for pages."""

import io
import sys
from collections.abc import Sequence
from typing import TextIO

Row = Sequence[str]


def plain(head: Row, rows: Sequence[Row], numbers: bool = False) -> str:
    """Aligned columns under a head and a line of dashes.

    Args:
        head: Names of the columns.
        rows: Cells, as many as the head has.
        numbers: Whether all columns but the first are aligned to the right.
    """
    widths = _widths(head, rows)
    lines = []
    for row in (head, ['-' * width for width in widths], *rows):
        first, *others = [
            cell.rjust(width) if numbers and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append('  '.join([first, *others]).rstrip())
    return '\n'.join(lines)


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """A table of a Markdown page, padded so that its source is readable."""
    widths = _widths(head, rows)
    lines = [
        '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + ' |'
        for row in (head, *rows)
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join(lines)


def for_stream(
    head: Row, rows: Sequence[Row], numbers: bool = False, stream: TextIO | None = None
) -> str:
    """The table as it is to be written to a stream: by rich if that is a terminal, else `plain`.

    Args:
        head: Names of the columns.
        rows: Cells, as many as the head has.
        numbers: Whether all columns but the first are aligned to the right.
        stream: Default the standard output.
    """
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        return plain(head, rows, numbers)
    from rich import box  # a log needs neither it nor its import time
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(head):
        right = numbers and bool(place)
        table.add_column(Text(name), justify='right' if right else 'left', overflow='fold')
    for row in rows:
        table.add_row(*map(Text, row))  # cells are no markup
    text = io.StringIO()
    Console(file=text, force_terminal=True, width=Console(file=stream).width).print(table)
    return text.getvalue().rstrip('\n')


def _widths(head: Row, rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(head, *rows, strict=True)]
