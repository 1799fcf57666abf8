"""Map the weights of one network to those of another: all of them, or none."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmm.checkpoints import differences, in_words
from kdmm.errors import ConfigError
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
        ConfigError: If a weight is missing, left over, misshapen, of another type, such as
            integers for numbers, or one that no training leaves behind (NaN, infinite values, a
            negative variance); lists up to eight of a kind.
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
    wanted = {key: value for key, value in target.items() if key not in found.filled}
    problems = differences(wanted, found.apply(source))
    # under the names of the source, which may mean something else in the target
    problems['unexpected'] = [key for key in over if key not in (*found.heads, *found.surplus)]
    if any(problems.values()):
        text, fix = in_words(problems), ''
        if problems['missing'] and all(map(family.is_surplus, problems['missing'])):
            text += '; they belong to outputs that the source does not have'
        if drop and not any(keys for kind, keys in problems.items() if kind != 'unexpected'):
            parts = sorted({key.split('.')[0] for key in problems['unexpected']})
            fix = f'{drop} {" ".join(parts)}'
        raise ConfigError(f'{what}: {text}', fix=fix)
    return found


def untrained(state: Mapping[str, Tensor]) -> bool:
    """True if all BatchNorm statistics are as they were initialised."""
    means = [value for key, value in state.items() if key.endswith('running_mean')]
    return bool(means) and not any(value.any() for value in means)


def _only_counter(key: str, pairs: Mapping[str, str]) -> bool:
    """True for the batch counter, lacking, of a norm that is there otherwise."""
    return key.endswith(TRACKED) and f'{key.removesuffix(TRACKED)}running_mean' in pairs
