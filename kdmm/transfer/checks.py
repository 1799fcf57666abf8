"""Whether weights are those of their network, and whether another network can take them."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from kdmm.distillers.weights import misfit
from kdmm.errors import ConfigError
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.families import Family, family_of
from kdmm.transfer.mapping import KeyMap, listed, map_keys
from kdmm.transfer.recognise import recognise


def check_held(
    weights: Weights, source: Architecture, wanted: Mapping[str, Tensor], family: Family
) -> KeyMap:
    """Refuse a checkpoint that does not hold the network that it is said to hold.

    Raises:
        ConfigError: Names the network that it does hold, or the prefixes, or the keys.
    """
    if not set(weights.tensors) & set(wanted):
        raise ConfigError(
            f'--prefix: no key of the backbone under {weights.prefix!r}: {weights.survey(wanted)}'
        )
    holds, said = recognise(weights.tensors), recognise(wanted)
    if holds and said and holds.phrase != said.phrase:
        raise ConfigError(f'the checkpoint holds {holds.phrase}, {source.origin} is {said.phrase}')
    what = f'the checkpoint does not fit {source.origin}'
    return map_keys(weights.tensors, wanted, family, what, drop='leave them out with --drop')


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
    """Whether all BatchNorm statistics are as they were initialised."""
    means = [value for key, value in state.items() if key.endswith('running_mean')]
    return bool(means) and not any(value.any() for value in means)


def check_agreement(
    source: tuple[Architecture, nn.Module],
    target: tuple[Architecture, nn.Module],
    accept: Collection[str],
) -> list[str]:
    """Traits in which the networks differ, all of them accepted.

    Raises:
        ConfigError: For another depth or width, or a trait that may not differ: the same weights
            would give other features.
    """
    holds, wants = (recognise(net.state_dict()) for _, net in (source, target))
    if holds and wants and holds.phrase != wants.phrase:
        raise ConfigError(
            f'the checkpoint holds {holds.phrase}, the target ({target[0].origin}) wants '
            f'{wants.phrase}'
        )
    ours, theirs = (family_of(net).traits(net) for _, net in (source, target))
    differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    for name in differing:
        if name not in accept:
            raise ConfigError(
                f'{name}: the source ({source[0].origin}) has {ours[name]}, the target '
                f'({target[0].origin}) {theirs[name]}: the same weights give other features. Take '
                f'a target that agrees, or --accept {name} if you know that it can be'
            )
    return differing
