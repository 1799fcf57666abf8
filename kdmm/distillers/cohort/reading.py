"""Where the networks of a cohort are read."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kdmm.distillers.section import tap_names
from kdmm.errors import ConfigError
from kdmm.taps import Taps


def check_dicts(taps: Any, losses: Any) -> None:
    """Refuse ``kd.taps`` and ``kd.losses`` that are of the wrong kind.

    Raises:
        ConfigError: Naming the key.
    """
    for key, value in dict(taps=taps, losses=losses).items():
        if not isinstance(value, Mapping):
            raise ConfigError(f'kd.{key}: expected a dict, got {value!r}')
    for name, config in losses.items():
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ConfigError(f'kd.losses.{name}: expected dict(type=..., on=...), got {config!r}')


def tapped(
    networks: Mapping[str, nn.Module], keep: int, taps: Mapping[str, Any], losses: Mapping[str, Any]
) -> dict[str, Taps]:
    """The taps that some term reads, of each network; the paths of the others are only checked.

    Args:
        networks: The student, called '', which is at place ``keep``, and the others in order.
        keep: The student's place.
        taps: Tap name to a path, or to one a place.
        losses: Term name to its dict.

    Raises:
        ConfigError: For a path that no module has, or a tap that is none.
    """
    count = len(networks)
    paths = {name: _paths(name, path, count) for name, path in taps.items()}
    read = dict.fromkeys(
        tap
        for name, config in losses.items()
        for tap in tap_names(config.get('on'), taps, f'kd.losses.{name}.on')
    )
    places = sorted(range(count), key=lambda place: place != keep)  # the student's first
    result = {}
    for place, (name, network) in zip(places, networks.items(), strict=True):
        every = Taps(network, {tap: path[place] for tap, path in paths.items()}, name or 'student')
        every.paths = {tap: every.paths[tap] for tap in read}
        result[name] = every
    return result


def refuse_shared(taps: Taps, trunk: Sequence[str]) -> None:
    """Refuse to compare networks where they are one and the same.

    Raises:
        ConfigError: If a tap reads a module of the trunk.
    """
    for name, path in taps.paths.items():
        if path.module in trunk:
            raise ConfigError(
                f'kd.taps.{name}: {path.module!r} is part of kd.trunk, where all networks are the '
                'same. Tap what comes behind it'
            )


def _paths(name: str, path: Any, count: int) -> list[str]:
    paths = [path] * count if isinstance(path, str) else path
    strings = isinstance(paths, list | tuple) and all(isinstance(item, str) for item in paths)
    if not strings or len(paths) != count:
        raise ConfigError(f'kd.taps.{name}: expected a path or a list of {count}, got {path!r}')
    return list(paths)
