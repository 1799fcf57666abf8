"""Names of weights, translated to ones that all libraries share."""

from collections.abc import Iterable


def own_names(keys: Iterable[str]) -> dict[str, str]:
    """Every key under its own name."""
    return {key: key for key in keys}


def resnet_names(keys: Iterable[str]) -> dict[str, str]:
    """Key to a name that all libraries share.

    Two parts are counted differently: a deep stem (``stem.3``, ``stem.1.conv``, ``conv1.3``; its
    last norm is ``stem.7``, ``stem.2.bn``, ``bn1``) and a shortcut (with or without a pooling
    layer in front). Here both are numbered by the layers that have weights.
    """
    parts = {key: key.split('.') for key in keys}
    deep = any(part[0] == 'stem' or part == ['conv1', '0', 'weight'] for part in parts.values())
    places = {key: _place(part, deep) for key, part in parts.items()}
    groups: dict[str, set[tuple[int, int]]] = {}
    for group, place in filter(None, places.values()):
        groups.setdefault(group, set()).add(place)
    return {
        key: f'{where[0]}.{sorted(groups[where[0]]).index(where[1])}.{parts[key][-1]}'
        if where
        else key
        for key, where in places.items()
    }


def _place(part: list[str], deep: bool) -> tuple[str, tuple[int, int]] | None:
    """The group that a key's layer is counted in, and what it is sorted by there."""
    if deep and part[0] in ('stem', 'conv1') and part[1].isdigit():
        return 'stem', (int(part[1]), int(len(part) == 4 and part[2] != 'conv'))
    if deep and part[0] == 'bn1':
        return 'stem', (1000, 0)  # behind all others
    if len(part) == 5 and part[2] == 'downsample' and part[3].isdigit():
        return '.'.join(part[:3]), (int(part[3]), 0)
    return None
