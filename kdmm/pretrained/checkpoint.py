"""The backbone's weights in a checkpoint file of any kind."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from kdmm.checkpoints import is_plain, read_checkpoint, state_dict_of
from kdmm.errors import ConfigError, about, listed

#: The entry of ``meta`` in a file that a conversion wrote; plain values only.
ENTRY = 'transfer'
BACKBONE = 'backbone.'
#: A weight of every ResNet and HRNet: where it is, there is a backbone.
FIRST_BLOCK = 'layer1.0.conv1.weight'
BRANCH = re.compile(r'([a-z]+\d?)_(\d+)\.(.+)')  # layer3_0.1.conv1.weight


@dataclass(frozen=True)
class Weights:
    """The weights that were found in a file.

    Attributes:
        tensors: Backbone key, without prefix, to weight.
        prefix: What stood before these keys.
        everything: All weights of the network under their full names.
        meta: The file's ``meta``.
        branch: Which of several behind a shared trunk, if there are such.
        dropped: Full names that are left out, as asked for.
    """

    tensors: dict[str, Tensor]
    prefix: str
    everything: dict[str, Tensor]
    meta: Mapping[str, Any]
    branch: int | None = None
    dropped: Collection[str] = ()

    @property
    def unused_keys(self) -> list[str]:
        """Keys outside the prefix, of other branches, and dropped ones."""
        return [
            key
            for key in self.everything
            if not key.startswith(self.prefix)
            or in_branch(key.removeprefix(self.prefix), self.branch) is None
            or key in self.dropped
        ]

    def describe(self, wanted: Collection[str] = ()) -> str:
        """The starts of the keys, and where a backbone seems to be.

        Args:
            wanted: Its keys, if they are known.
        """
        inner = {
            f'{key.partition(f".{BACKBONE}")[0]}.{BACKBONE}'
            for key in self.everything
            if f'.{BACKBONE}' in key
        }
        inner |= {
            key.removesuffix(FIRST_BLOCK) for key in self.everything if key.endswith(FIRST_BLOCK)
        }
        counts = Counter(
            key.removesuffix(tail)
            for key in self.everything
            for tail in _tails(key)
            if tail in wanted
        )
        inner |= {prefix for prefix, count in counts.items() if count > len(wanted) / 2}
        hints = [f'--prefix {start}' for start in sorted(inner - {'', self.prefix})]
        hints += [f'--branch {index}' for index in branches(self.tensors)] * (self.branch is None)
        text = f'its keys start with {starts(self.everything)}'
        return f'{text}; try {" or ".join(hints)}' if hints else text


def read_weights(
    path: str,
    prefix: str | None = None,
    container: str | None = None,
    unsafe: bool = False,
    branch: int | None = None,
    drop: Collection[str] = (),
) -> Weights:
    """The weights below ``prefix`` in a file.

    Args:
        path: Path or URL.
        prefix: Default ``backbone.`` where the file has such keys, else none.
        container: The file's entry that holds the weights; default ``state_dict``, or the file.
        unsafe: Allow a file that is more than weights, which can run code.
        branch: Of a shared trunk with branches: ``layer3_<branch>.`` is ``layer3.``.
        drop: Keys below ``prefix``, or their first parts, that are left out.

    Raises:
        ConfigError: If the file cannot be read or has nothing of that name.
    """
    content = read_checkpoint(path, unsafe=unsafe, allow='--unsafe')
    with about('checkpoint', path):
        state = tensors_of(content, '', container, '--container')
    if prefix is None:
        prefix = BACKBONE if any(key.startswith(BACKBONE) for key in state) else ''
    elif prefix:
        prefix = prefix.rstrip('.') + '.'
    below = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    dropped = {key for key in below for name in drop if _is_part(key, name.rstrip('.'))}
    idle = [name for name in drop if not any(_is_part(key, name.rstrip('.')) for key in dropped)]
    named = {in_branch(key, branch): value for key, value in below.items() if key not in dropped}
    tensors = {key: value for key, value in named.items() if key is not None}
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    found = Weights(tensors, prefix, state, meta, branch, {f'{prefix}{key}' for key in dropped})
    if not below:
        raise ConfigError(
            f'{path!r} has no key under it: {found.describe()}', key='--prefix', got=prefix
        )
    if idle or not tensors:
        what = f'no key {" or ".join(idle)}' if idle else 'no other keys'
        raise ConfigError(
            f'{path!r} has {what} under {prefix!r}: {starts(below)}', key='--drop', got=[*drop]
        )
    if branch is not None and branch not in branches(below):
        there = ', '.join(map(str, branches(below))) or 'none'
        raise ConfigError(
            f'{path!r} has no such branch, there are: {there}', key='--branch', got=branch
        )
    return found


def tensors_of(
    content: Mapping[str, Any], what: str, container: str | None = None, flag: str | None = None
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the prefixes of wrappers; other entries are left away.

    Raises:
        ConfigError: If there are none; lists weights that are arrays, sparse or without values.
    """
    state = state_dict_of(content, what, container, flag=flag)
    odd = [
        key
        for key, value in state.items()
        if isinstance(value, np.ndarray) or isinstance(value, Tensor) and not is_plain(value)
    ]
    if odd:
        raise ConfigError(f'others are {listed(odd)}', key=what, expected='plain tensors')
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def transfer_entry(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry that a conversion wrote into a file's ``meta``; empty for any other file."""
    entry = meta.get(ENTRY)
    return entry if isinstance(entry, Mapping) else {}


def starts(keys: Iterable[str], prefix: str = '') -> str:
    """The first parts of keys, behind ``prefix`` where they have it, with their numbers."""
    counts = Counter(
        f'{prefix}{key.removeprefix(prefix).split(".")[0]}'
        if key.startswith(prefix)
        else key.split('.')[0]
        for key in keys
    )
    return ', '.join(f'{start}. ({number})' for start, number in sorted(counts.items()))


def in_branch(key: str, branch: int | None) -> str | None:
    """The key of one network in a file of several that share a trunk; None if it is another's.

    MCL's and MCL-OKD's ImageNet ResNets have ``layer3_0.``, ``layer4_0.``, ``classifier_0.`` and so
    on behind a shared ``layer2.``.
    """
    match = BRANCH.fullmatch(key) if branch is not None else None
    if match is None:
        return key
    return f'{match[1]}.{match[3]}' if int(match[2]) == branch else None


def branches(keys: Iterable[str]) -> list[int]:
    """The branches that keys speak of."""
    return sorted({int(match[2]) for key in keys if (match := BRANCH.fullmatch(key))})


def under_prefix(content: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, as MMEngine finds them."""
    state = content.get('state_dict', content)
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def _tails(key: str) -> Iterator[str]:
    """``a.b.c``, ``b.c``, ``c``."""
    parts = key.split('.')
    return ('.'.join(parts[start:]) for start in range(len(parts)))


def _is_part(key: str, name: str) -> bool:
    """True if ``name`` is a key or the parts that it begins with."""
    return key == name or key.startswith(f'{name}.')
