"""Expect a refused config, or tensors that do not fit, and look at the fields of the error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kdmm.errors import ConfigError, ShapeError

#: Characters of the longest message that somebody will read to its end.
LONGEST = 1000
#: Fields of prose: a test names words that must be in them.
PROSE = ('problem', 'expected', 'fix')


@contextmanager
def refused(**fields: Any) -> Iterator[pytest.ExceptionInfo[ConfigError]]:
    """Expect `ConfigError` with these fields, and one short line that names them.

    Args:
        fields: ``key`` and ``got`` must be equal to the error's; ``problem``, ``expected`` and
            ``fix`` are a text, or several, that must be part of it. What is left out is not
            compared.

    Yields:
        What `pytest.raises` yields.
    """
    with pytest.raises(ConfigError) as caught:
        yield caught
    error = _with_fields(caught.value)
    message = str(error)
    assert '\n' not in message and len(message) <= LONGEST, message
    for name, value in fields.items():
        found = getattr(error, name)
        if name in PROSE:
            for words in (value,) if isinstance(value, str) else value:
                assert words in found, f'{words!r} is not in {name}: {found!r}'
        else:
            assert found is value or found == value, f'{name}: {found!r}, not {value!r}; {message}'
    if 'got' in fields:
        assert error.has_got and f'got {_shown(fields["got"])}' in message, message
    if error.key:
        assert message.startswith(f'{error.key}: '), message
    for text in (error.problem, error.fix):
        assert text in message, message


def _with_fields(error: ConfigError) -> ConfigError:
    """The error itself; MMEngine 0.10 raises the text of what a class raises again, alone."""
    inner = error.__context__
    if not error.key and isinstance(inner, ConfigError) and str(error).endswith(str(inner)):
        return _with_fields(inner)
    return error


@contextmanager
def unfit(mismatch: str, **fields: Any) -> Iterator[pytest.ExceptionInfo[ShapeError]]:
    """Expect `ShapeError` of this mismatch, and a message that names the shapes.

    Args:
        mismatch: The error's.
        fields: ``problem`` and ``fix`` as in `refused`; others are names of tensors, and what must
            be their shapes.

    Yields:
        What `pytest.raises` yields.
    """
    with pytest.raises(ShapeError) as caught:
        yield caught
    error, message = caught.value, str(caught.value)
    assert error.mismatch == mismatch, message
    assert '\n' not in message and len(message) <= LONGEST, message
    for name, value in fields.items():
        if name in PROSE:
            for words in (value,) if isinstance(value, str) else value:
                assert words in getattr(error, name), f'{words!r} is not in {name}: {message!r}'
        else:
            assert error.shapes[name] == value, f'{name}: {error.shapes}, not {value!r}'
    for name, shape in error.shapes.items():
        assert f'{name} {shape}' in message, message
    for words in ('tap ', 'Tap ', 'connector', 'kd.', 'dataloader'):
        assert words not in message, f'{message!r} speaks of a config'


def _shown(value: Any) -> str:
    """The beginning of a value as messages show it."""
    return ' '.join(repr(value).split())[:100]
