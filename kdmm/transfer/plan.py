"""What is to become what: everything that can be checked before a file is written."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from kdmm.transfer.architecture import Architecture
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.checks import check_agreement, check_held, check_values
from kdmm.transfer.families import Family, family_of
from kdmm.transfer.mapping import KeyMap, map_keys
from kdmm.transfer.recognise import recognise
from kdmm.transfer.request import Request
from kdmm.transfer.resolve import source_of, target_of


@dataclass(frozen=True)
class Plan:
    """A conversion that has passed all checks and is not written yet.

    Attributes:
        source, target: The networks.
        net: The source as it was built.
        family: Of the source.
        state: The source's weights under its own keys.
        held: Its keys to those in the file.
        mapping: Keys of the target to those of the source.
        differing: Traits that differ, as accepted.
    """

    source: Architecture
    target: Architecture
    net: nn.Module
    family: Family
    state: Mapping[str, Tensor]
    held: KeyMap
    mapping: KeyMap
    differing: list[str]


def plan_of(request: Request, weights: Weights) -> Plan:
    """Find source and target, and check that one can become the other."""
    source = source_of(request, weights)
    net = source.build()
    family = family_of(net)
    held = check_held(weights, source, net.state_dict(), family)
    state = held.complete(weights.tensors)
    check_values(state)
    target = target_of(request, source, recognise(state))
    receiver = target.build()
    differing = check_agreement((source, net), (target, receiver), request.accept)
    wanted = receiver.state_dict()
    where = f'the checkpoint does not fill {target.title(wanted)} ({target.origin})'
    mapping = map_keys(state, wanted, family, where)
    return Plan(source, target, net, family, state, held, mapping, differing)
