"""Checks of the section ``kd`` before anything is built."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdmm.errors import ConfigError, nearest, refuse_unknown


def check_section(taps: Any, losses: Any, teachers: int, measure: Any) -> None:
    """Refuse values of the wrong kind, and teachers that no term reads.

    Raises:
        ConfigError: Naming the key.
    """
    for key, value in dict(taps=taps, losses=losses).items():
        if not isinstance(value, Mapping) or not value:
            raise ConfigError(key=f'kd.{key}', got=value, expected='a dict of at least one entry')
    if not isinstance(measure, bool):
        raise ConfigError(key='kd.measure', got=measure, expected='True or False')
    for name, config in losses.items():
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ConfigError(
                key=f'kd.losses.{name}', got=config, expected='dict(type=..., on=...)'
            )
        tap_names(config.get('on'), taps, f'kd.losses.{name}.on')
        index = config.get('teacher', 0)
        if index not in range(teachers):
            raise ConfigError(
                key=f'kd.losses.{name}.teacher',
                got=index,
                expected=f'the place of one of {teachers} teacher(s), from 0',
            )
    unread = set(range(teachers)) - {config.get('teacher', 0) for config in losses.values()}
    if unread:
        raise ConfigError(f'no term reads teacher {min(unread)}', key='kd.teacher')


def tap_names(on: Any, taps: Mapping[str, Any], where: str = 'on') -> tuple[str, ...]:
    """The taps that a term's ``on`` names: one name, or a list of different ones.

    Raises:
        ConfigError: For a name that is no tap, an empty list, or a name twice.
    """
    names = list(on) if isinstance(on, list | tuple) else [on]
    for name in names:
        if not isinstance(name, str) or name not in taps:
            raise ConfigError(f'no such tap; {nearest(str(name), taps)}', key=where, got=name)
    if not names or len(set(names)) < len(names):
        raise ConfigError(key=where, got=on, expected='a tap or a list of different taps')
    return tuple(names)


def taps_read(losses: Mapping[str, Any], teacher: int | None = None) -> list[str]:
    """The taps that the terms of ``teacher`` (or of all) read, each once, in order."""
    read: dict[str, None] = {}
    for config in losses.values():
        on = config['on']
        if teacher in (None, config.get('teacher', 0)):
            read.update(dict.fromkeys([on] if isinstance(on, str) else on))
    return list(read)


def both_sides(name: str, path: Any) -> dict[str, str]:
    """A tap's path in the student and in the teacher.

    Raises:
        ConfigError: If it is neither a path nor ``dict(student=, teacher=)``.
    """
    if isinstance(path, str):
        return {'student': path, 'teacher': path}
    if isinstance(path, Mapping) and set(path) == {'student', 'teacher'}:
        return dict(path)
    raise ConfigError(
        key=f'kd.taps.{name}', got=path, expected='a path or dict(student=, teacher=)'
    )


def list_of_teachers(teacher: Any, known: Sequence[str]) -> list[Any]:
    """``kd.teacher`` as a list of dicts.

    Raises:
        ConfigError: If it is no dict or list of dicts, or has a key that is not ``known``.
    """
    teachers: list[Any] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    for options in teachers:
        if not isinstance(options, Mapping):
            raise ConfigError(key='kd.teacher', got=teacher, expected='a dict or a list of them')
        refuse_unknown('kd.teacher', options, known)
    return teachers
