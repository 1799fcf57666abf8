"""Map the weights of one network to those of another: all of them, or none."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmm.checkpoints import misfit, same_kind
from kdmm.errors import ConfigError
from kdmm.pretrained.checkpoint import listed
from kdmm.pretrained.families import Family

TRACKED = 'num_batches_tracked'


@dataclass(frozen=True)
class KeyMap:
    """The result of `map_keys`.

    Attributes:
        pairs: Key of the target to key of the source.
        filled: Keys of the target that the source lacks: batch counters of old files.
        heads: Keys of the source's classifier.
        surplus: Keys of outputs that the target does not have.
    """

    pairs: dict[str, str]
    filled: list[str]
    heads: list[str]
    surplus: list[str]

    def apply(self, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The source's tensors under the target's keys, without the filled ones."""
        return {key: source[name] for key, name in self.pairs.items()}

    def complete(self, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same with the filled ones, which are 0."""
        return self.apply(source) | {key: torch.zeros((), dtype=torch.long) for key in self.filled}


def map_keys(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    family: Family,
    what: str,
    drop: str = '',
) -> KeyMap:
    """Pair every key of ``target`` with the key of ``source`` that becomes it.

    Args:
        source: Weights of one network.
        target: Of the other.
        family: How their names are translated.
        what: How errors begin.
        drop: How errors say that keys are left out, if they can be.

    Raises:
        ConfigError: If a weight is missing, left over, misshapen or of another type, such as
            integers for numbers; lists up to eight of a kind.
    """
    theirs = {name: key for key, name in family.names(source).items()}
    ours = family.names(target)
    pairs = {key: theirs[name] for key, name in ours.items() if name in theirs}
    lacking = [key for key in target if key not in pairs]
    known = set(ours.values())
    over = [key for name, key in theirs.items() if name not in known]
    found = KeyMap(
        pairs,
        filled=[key for key in lacking if _only_counter(key, pairs)],
        heads=[key for key in over if family.is_head(key)],
        surplus=[key for key in over if family.is_surplus(key)],
    )
    problems = {
        'missing': [key for key in lacking if key not in found.filled],
        'left over': [key for key in over if key not in (*found.heads, *found.surplus)],
        'of another shape': [
            f'{key} {tuple(source[name].shape)} for {tuple(target[key].shape)}'
            for key, name in pairs.items()
            if source[name].shape != target[key].shape
        ],
        'of another type': [
            f'{key} {source[name].dtype} for {target[key].dtype}'
            for key, name in pairs.items()
            if not same_kind(source[name], target[key])
        ],
    }
    if any(problems.values()):
        lists = [f'{len(keys)} {kind}: {listed(keys)}' for kind, keys in problems.items() if keys]
        if problems['missing'] and all(map(family.is_surplus, problems['missing'])):
            lists.append('they belong to outputs that the source does not have')
        if drop and not any(keys for kind, keys in problems.items() if kind != 'left over'):
            parts = sorted({key.split('.')[0] for key in problems['left over']})
            lists.append(f'{drop} {" ".join(parts)}')
        raise ConfigError(f'{what}: {"; ".join(lists)}')
    return found


def check_values(state: Mapping[str, Tensor], what: str = 'checkpoint') -> None:
    """Refuse weights that no training leaves behind.

    Raises:
        ConfigError: Lists those with NaN, infinite values or a negative variance.
    """
    broken = [key for key, value in state.items() if misfit(key, value, value)[0]]
    if broken:
        raise ConfigError(
            f'{what}: {len(broken)} weights with NaN, infinite values or a negative variance: '
            f'{listed(broken)}'
        )


def untrained(state: Mapping[str, Tensor]) -> bool:
    """True if all BatchNorm statistics are as they were initialised."""
    means = [value for key, value in state.items() if key.endswith('running_mean')]
    return bool(means) and not any(value.any() for value in means)


def _only_counter(key: str, pairs: Mapping[str, str]) -> bool:
    """True for the batch counter, lacking, of a norm that is there otherwise."""
    return key.endswith(TRACKED) and f'{key.removesuffix(TRACKED)}running_mean' in pairs
