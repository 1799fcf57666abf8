import io

import pytest

from kdmm.utils import tables

HEAD, ROWS = ['form', 'ms'], [['naive', '10.00'], ['x', '-']]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_numbers_are_aligned_to_the_right():
    lines = tables.plain(HEAD, ROWS, numbers=True).splitlines()
    assert lines == ['form      ms', '-----  -----', 'naive  10.00', 'x          -']


def test_words_are_aligned_to_the_left_without_blanks_at_the_end():
    lines = tables.plain(HEAD, ROWS).splitlines()
    assert lines == ['form   ms', '-----  -----', 'naive  10.00', 'x      -']


def test_markdown():
    lines = tables.markdown(HEAD, ROWS).splitlines()
    assert lines == [
        '| form  | ms    |',
        '|-------|-------|',
        '| naive | 10.00 |',
        '| x     | -     |',
    ]


@pytest.mark.parametrize('make', [tables.plain, tables.markdown])
def test_a_row_of_another_length_is_refused(make):
    with pytest.raises(ValueError):
        make(HEAD, [['x']])


def test_a_pipe_gets_plain_text(capsys):
    assert tables.for_stream(HEAD, ROWS) == tables.plain(HEAD, ROWS)
    assert tables.for_stream(HEAD, ROWS, True, io.StringIO()) == tables.plain(HEAD, ROWS, True)


def test_a_terminal_gets_rich_and_every_cell_as_it_is(monkeypatch):
    monkeypatch.setenv('COLUMNS', '60')
    text = tables.for_stream(HEAD, [*ROWS, ['[red]', '1']], numbers=True, stream=Terminal())
    assert '\x1b[' in text and '─' in text
    assert all(cell in text for row in ROWS for cell in row) and '[red]' in text
