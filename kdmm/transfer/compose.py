"""Compose a complete checkpoint from one of a model and the backbone of another file."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kdmm.checkpoints import differences, in_words, unequal
from kdmm.errors import ConfigError, ProofError
from kdmm.pretrained.checkpoint import starts, under_prefix
from kdmm.pretrained.families import recognise
from kdmm.transfer.writing import tidy


@dataclass(frozen=True)
class Composition:
    """A complete state dict made from another one.

    Attributes:
        full: The one that it was made from.
        state: Key to weight, in the same order.
        replaced: Keys of the backbone.
        also: Other keys that were carried over.
    """

    full: Mapping[str, Tensor]
    state: 'OrderedDict[str, Tensor]'
    replaced: list[str]
    also: list[str]

    def check(self, written: Mapping[str, Tensor]) -> None:
        """Compare what a file holds, bit by bit.

        Raises:
            ProofError: If it lacks something, or what was to stay has changed.
        """
        new = {*self.replaced, *self.also}
        wanted = {key: self.state[key] if key in new else value for key, value in self.full.items()}
        for key in unequal(wanted, written):
            raise ProofError(f'{key} is not what it was to be')
        if len(written) != len(self.full):
            raise ProofError('the file has more entries than the checkpoint that it was made from')


def compose(
    full: Mapping[str, Tensor],
    backbone: Mapping[str, Tensor],
    prefix: str,
    source: Mapping[str, Tensor],
    also: Sequence[str] = (),
) -> Composition:
    """``full`` with ``backbone`` under ``prefix``, and the source's weights under ``also``.

    Raises:
        ConfigError: If that would leave a weight of these parts as it was, add one, or change a
            shape.
    """
    _check_network(full, backbone, prefix)
    parts = {prefix: {f'{prefix}{key}': value for key, value in backbone.items()}}
    for start in (f'{name.rstrip(".")}.' for name in also):
        if start.startswith(prefix) or prefix.startswith(start):
            raise ConfigError(f'overlaps {prefix}, which is converted', key='--also', got=start)
        parts[start] = {key: source[key] for key in source if key.startswith(start)}
        if not parts[start]:
            raise ConfigError(
                f'the checkpoint has no key under it; its keys start with {starts(source)}',
                key='--also',
                got=start,
            )
    for start, new in parts.items():
        _check(full, new, start)
    taken = {key: value for part in parts.values() for key, value in part.items()}
    state = {key: taken.get(key, value).to(value.dtype) for key, value in full.items()}
    return Composition(
        full,
        tidy(state),
        list(parts.pop(prefix)),
        [key for part in parts.values() for key in part],
    )


def _check_network(full: Mapping[str, Tensor], backbone: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse another depth or width in a few words, before any list of keys."""
    has, gets = recognise(under_prefix(full, prefix)), recognise(backbone)
    if has and gets and has.phrase != gets.phrase:
        raise ConfigError(
            f'its backbone is {has.phrase}, the checkpoint holds {gets.phrase}', key='--into'
        )


def _check(full: Mapping[str, Tensor], new: Mapping[str, Tensor], prefix: str) -> None:
    held = {key: value for key, value in full.items() if key.startswith(prefix)}
    problems = differences(held, new)
    if any(problems.values()):
        raise ConfigError(
            f'its {len(held)} entries {prefix}* are not those to be put in: {in_words(problems)}',
            key='--into',
        )
