"""Checks of the constructors' arguments."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from ...errors import ConfigError

Key = TypeVar('Key', bound=Hashable)
Choice = TypeVar('Choice')


def choose(network: str, key: str, value: Key | None, known: Mapping[Key, Choice]) -> Choice:
    """The entry of ``known`` for ``value``; None stands for an argument that was left out.

    Raises:
        ConfigError: Lists the keys of ``known``.
    """
    if value is None or value not in known:
        problem = 'it is required' if value is None else ''
        expected = f'one of {", ".join(map(repr, known))}'
        raise ConfigError(problem, key=f'{network}.{key}', got=value, expected=expected)
    return known[value]


def units_of_depth(network: str, depth: int, period: int, rest: int) -> int:
    """The n of depth = period * n + rest.

    Raises:
        ConfigError: If there is none; gives the nearest depths that have one.
    """
    count = (depth - rest) // period
    if count < 1 or depth != period * count + rest:
        near = [period * n + rest for n in (max(count, 1), max(count, 1) + 1)]
        raise ConfigError(
            key=f'{network}.depth',
            got=depth,
            expected=f'{period}n+{rest} with n >= 1, for instance {near[0]} or {near[1]}',
        )
    return count


def positive_ints(network: str, key: str, values: Sequence[int], length: int) -> tuple[int, ...]:
    """``values`` as a tuple.

    Raises:
        ConfigError: If they are not ``length`` positive whole numbers.
    """
    listed = tuple(values) if isinstance(values, Iterable) else (values,)
    if len(listed) != length or not all(isinstance(v, int) and v > 0 for v in listed):
        raise ConfigError(
            key=f'{network}.{key}', got=values, expected=f'{length} positive whole numbers'
        )
    return listed


def checked_outputs(network: str, wanted: Sequence[int], stages: int) -> tuple[int, ...]:
    """``out_indices`` counted from 0.

    Raises:
        ConfigError: If they are none, not ascending, or beyond the tail.
    """
    given = tuple(wanted) if isinstance(wanted, Sequence) else ()
    found = tuple(index + stages + 1 if index < 0 else index for index in given)
    ascending = all(a < b for a, b in zip(found, found[1:], strict=False))
    if not found or not ascending or found[0] < 0 or found[-1] > stages:
        raise ConfigError(
            key=f'{network}.out_indices',
            got=wanted,
            expected=f'ascending indices out of 0..{stages - 1} (the stages) and {stages} or -1 '
            '(the tail, which a classifier pools)',
        )
    return found


def checked_frozen(network: str, frozen: int, stages: int) -> int:
    """``frozen_stages`` as it is.

    Raises:
        ConfigError: If there are fewer parts.
    """
    if not -1 <= frozen <= stages + 1:
        raise ConfigError(
            key=f'{network}.frozen_stages',
            got=frozen,
            expected=f'-1 (none), 0 (stem), 1..{stages} (also so many stages) or {stages + 1} '
            '(also the tail)',
        )
    return frozen
