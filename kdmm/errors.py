"""What is said when a configuration cannot be right, or a run must end."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A key, a value, what was expected, and what to do about it."""


class TrainingError(RuntimeError):
    """A run whose state must not be written any more."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The ``count`` names most like ``name``, as a phrase to append to an error."""
    pool = sorted(set(known))
    matches = difflib.get_close_matches(name, pool, count, cutoff=0.4)
    return f'nearest: {", ".join(matches)}' if matches else f'known: {", ".join(pool[:20])}'


def refuse_unknown(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ConfigError` for the first of ``keys`` that is not ``known``."""
    allowed = set(known)
    for key in keys:
        if key not in allowed:
            raise ConfigError(f'{where}: unknown key {key!r}; {nearest(key, allowed)}')
