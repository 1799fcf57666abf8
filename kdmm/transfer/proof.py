"""Proof that a written file gives its target the features of its source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from kdmm.transfer.architecture import Architecture
from kdmm.transfer.families import Family
from kdmm.transfer.features import ProofError, difference, features, same_number
from kdmm.transfer.mapping import KeyMap, map_keys
from kdmm.transfer.noise import noise_like

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        tensors: Weights that the target holds bit by bit.
        maps: Feature maps that were compared, with two sets of weights each.
        difference: Largest difference relative to the largest value; 0 if every bit is equal.
    """

    tensors: int
    maps: int
    difference: float

    def __str__(self) -> str:
        start = f'{self.tensors} tensors loaded from the file, {self.maps} feature maps '
        if self.difference > TOLERANCE:
            return f'{start}NOT equal, as accepted: max difference {self.difference:.1e}'
        if self.difference:
            return f'{start}equal up to rounding: max difference {self.difference:.1e}'
        return f'{start}bit-equal'


@dataclass(frozen=True)
class Side:
    """One of the networks that are compared.

    Attributes:
        architecture: How it is built.
        net: Built so; its weights are overwritten.
        state: Its weights.
    """

    architecture: Architecture
    net: nn.Module
    state: Mapping[str, Tensor]

    def comparable(self, family: Family) -> nn.Module:
        """The network in plain geometry, with any weights."""
        geometry = plain(self.architecture, family)
        return self.net if geometry.args == self.architecture.args else geometry.build()


def prove(
    source: Side,
    target: Side,
    family: Family,
    mapping: KeyMap,
    size: tuple[int, int],
    accepted: bool = False,
) -> Proof:
    """Compare the features of a source with those of a target that loaded the file.

    Both run in the family's plain geometry. They are compared with their own weights, and with
    noise in the source that the same mapping carries over: weights as they are initialised, with
    zeros at the end of each residual branch, would hide a wrong mapping.

    Args:
        source: With the weights of the checkpoint.
        target: As the library loaded it.
        family: Whose stages are compared.
        mapping: Key of the target to key of the source.
        size: Height and width of the input.
        accepted: Report a difference and do not raise.

    Raises:
        ProofError: If they differ.
        ConfigError: If they cannot be run on such an input.
    """
    nets = source.comparable(family), target.comparable(family)
    noise = noise_like(source.state)
    rounds = (source.state, target.state), (noise, mapping.complete(noise))
    worst, maps = 0.0, 0
    for weights in rounds:
        found = []
        for net, state in zip(nets, weights, strict=True):
            own = map_keys(state, net.state_dict(), family, 'in plain geometry')
            net.load_state_dict(own.complete(state))
            found.append(features(net, family, size))
        ours, theirs = same_number(*found)
        maps = len(ours)
        worst = max(worst, *map(difference, ours, theirs))
    if worst > TOLERANCE and not accepted:
        raise ProofError(
            f'the features differ by {worst:.1e} of the largest value, {TOLERANCE:.0e} is allowed'
            f'{_arguments(source.architecture, target.architecture)}'
        )
    return Proof(len(target.state), maps, worst)


def _arguments(source: Architecture, target: Architecture) -> str:
    """The arguments that are not the same."""
    given = source.args, target.args
    names = sorted(key for key in {**given[0], **given[1]}
                   if given[0].get(key) != given[1].get(key))  # fmt: skip
    return f' (other in their configs: {", ".join(names)})' if names else ''


def plain(architecture: Architecture, family: Family) -> Architecture:
    """The network without strides and dilations of its own, which are in no weight."""
    stages = architecture.args.get('num_stages', 4)
    replaced = {
        key: value[:stages] if isinstance(value, tuple) else value
        for key, value in family.plain.items()
        if key in architecture.args
    }
    return replace(architecture, args={**architecture.args, **replaced})
