"""The backbone's weights in a checkpoint file of any kind."""

import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdmm.distillers.weights import read_checkpoint
from kdmm.errors import ConfigError
from kdmm.transfer.branches import branches, in_branch

BACKBONE = 'backbone.'
COUNTERS = ('steps', 'n_averaged')  # beside the weights of an averaged model


@dataclass(frozen=True)
class Weights:
    """What was found in a file.

    Attributes:
        tensors: Backbone key, without prefix, to weight.
        prefix: What stood before these keys.
        everything: All weights of the network under their full names.
        meta: The file's ``meta``.
        branch: Which of several behind a shared trunk, if there are such.
    """

    tensors: dict[str, Tensor]
    prefix: str
    everything: dict[str, Tensor]
    meta: Mapping[str, Any]
    branch: int | None = None

    @property
    def left_behind(self) -> list[str]:
        """Keys outside the prefix, and of other branches."""
        return [
            key
            for key in self.everything
            if not key.startswith(self.prefix)
            or in_branch(key.removeprefix(self.prefix), self.branch) is None
        ]

    @property
    def survey(self) -> str:
        """What the keys start with, and where a backbone seems to be."""
        inner = {
            key.partition(f'.{BACKBONE}')[0] for key in self.everything if f'.{BACKBONE}' in key
        }
        hints = [f'--prefix {start}.{BACKBONE}' for start in sorted(inner)]
        hints += [f'--branch {index}' for index in branches(self.tensors)] * (self.branch is None)
        text = f'its keys start with {starts(self.everything)}'
        return f'{text}; try {" or ".join(hints)}' if hints else text


def read_weights(
    path: str,
    prefix: str | None = None,
    container: str | None = None,
    unsafe: bool = False,
    branch: int | None = None,
) -> Weights:
    """The weights below ``prefix`` in a file.

    Args:
        path: Path or URL.
        prefix: Default ``backbone.`` where the file has such keys, else none.
        container: The file's entry that holds the weights; default ``state_dict``, or the file.
        unsafe: Allow a file that is more than weights, which can run code.
        branch: Of a shared trunk with branches: ``layer3_<branch>.`` is ``layer3.``.

    Raises:
        ConfigError: If the file cannot be read or has nothing of that name.
    """
    content = read_safely(path, unsafe)
    state = unwrapped(_contained(path, content, container))
    if prefix is None:
        prefix = BACKBONE if any(key.startswith(BACKBONE) for key in state) else ''
    elif prefix:
        prefix = prefix.rstrip('.') + '.'
    below = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    named = {in_branch(key, branch): value for key, value in below.items()}
    tensors = {key: value for key, value in named.items() if key is not None}
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    found = Weights(tensors, prefix, state, meta, branch)
    if not tensors:
        raise ConfigError(f'--prefix: {path!r} has no key under {prefix!r}: {found.survey}')
    if branch is not None and branch not in branches(below):
        there = ', '.join(map(str, branches(below))) or 'none'
        raise ConfigError(f'--branch: {path!r} has no branch {branch}, there are: {there}')
    return found


def read_safely(path: str, unsafe: bool, what: str = 'checkpoint') -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        ConfigError: If it is missing, truncated, or more than weights.
    """
    try:
        return read_checkpoint(path, unsafe=unsafe, what=what)
    except ConfigError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise ConfigError(
                f'{what}: {path!r} is damaged or holds more than weights. If you trust its origin '
                'and it is whole, allow it with --unsafe: such a file can run code'
            ) from error
        raise
    except Exception as error:  # whatever the unpickler stumbles over
        raise ConfigError(f'{what}: {path!r} is truncated or no checkpoint ({error})') from error


def unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without ``module.`` of parallel and averaging wrappers."""
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    inner = [key for key in tensors if key not in COUNTERS]
    while inner and all(key.startswith('module.') for key in inner):
        tensors = {key.removeprefix('module.'): tensors[key] for key in inner}
        inner = [key for key in tensors if key not in COUNTERS]
    return tensors


def starts(keys: Iterable[str], prefix: str = '') -> str:
    """The first parts of keys, behind ``prefix`` where they have it, with their numbers."""
    counts = Counter(
        f'{prefix}{key.removeprefix(prefix).split(".")[0]}'
        if key.startswith(prefix)
        else key.split('.')[0]
        for key in keys
    )
    return ', '.join(f'{start}. ({number})' for start, number in sorted(counts.items()))


def _contained(path: str, content: Mapping[str, Any], container: str | None) -> Mapping[str, Any]:
    holders = [
        key
        for key, value in content.items()
        if isinstance(value, Mapping) and any(isinstance(x, Tensor) for x in value.values())
    ]
    if container is not None and container not in holders:
        raise ConfigError(
            f'--container: {path!r} has no weights in {container!r}; there are some in '
            f'{", ".join(holders) or "no entry"}'
        )
    if container is None and 'state_dict' in holders:
        container = 'state_dict'
    if container is not None:
        return content[container]
    if any(isinstance(value, Tensor) for value in content.values()):
        return content
    raise ConfigError(
        f'checkpoint: {path!r} has no state_dict'
        + (f'; its weights are in {", ".join(holders)}: name one with --container' if holders
           else f', only {", ".join(map(str, content)) or "nothing"}')
    )  # fmt: skip
