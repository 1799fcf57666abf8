"""Verify that a written file gives its target the features of its source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, ProofError
from kdmm.pretrained.architecture import Architecture
from kdmm.pretrained.families import Family
from kdmm.pretrained.mapping import KeyMap, map_keys
from kdmm.taps import leaves

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Proof:
    """Result of a comparison.

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


def plain(architecture: Architecture, family: Family) -> Architecture:
    """The network without strides and dilations of its own, which are in no weight."""
    stages = architecture.args.get('num_stages', 4)
    replaced = {
        key: value[:stages] if isinstance(value, tuple) else value
        for key, value in family.plain.items()
        if key in architecture.args
    }
    return replace(architecture, args={**architecture.args, **replaced})


@torch.no_grad()
def features(net: nn.Module, family: Family, size: tuple[int, int]) -> list[Tensor]:
    """Compute the outputs of the stages, or of the network, for one fixed input.

    Raises:
        ConfigError: If the network does not take it.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        found.extend(x.clone() for x in leaves(output))

    stages = [stage for name, stage in net.named_children() if name in family.stages]
    hooks = [stage.register_forward_hook(keep) for stage in stages or [net]]
    first = next((x for x in net.modules() if isinstance(x, nn.Conv2d)), None)
    channels = first.in_channels if first else 3
    image = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    try:
        net.eval()  # which some networks do not return
        net(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f'{type(net).__name__} does not take it ({error})', key='--size', got=tuple(size)
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def same_number(
    source: Sequence[Tensor], target: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return the maps that both have.

    Raises:
        ProofError: If they are of other shapes, or there is none.
    """
    number = min(len(source), len(target))
    if len(source) != len(target) and source and source[0].shape != target[0].shape:
        source, target = source[-number:], target[-number:]  # only the last stages are returned
    pairs = list(zip(source, target, strict=False))
    shapes = [tuple(x.shape) for x, _ in pairs], [tuple(x.shape) for _, x in pairs]
    if not pairs or shapes[0] != shapes[1]:
        raise ProofError(
            f'the source gives maps of {shapes[0]}, the target of {shapes[1]}: they cannot be '
            'compared'
        )
    return source[:number], target[:number]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Compute the largest difference relative to the largest value of the source's map.

    Raises:
        ProofError: If the source's is not finite.
    """
    if not ours.isfinite().all():
        raise ProofError('the features of the source are not finite: its weights are broken')
    if torch.equal(ours, theirs):
        return 0.0
    return ((ours - theirs).abs().max() / ours.abs().max()).nan_to_num(torch.inf).item()


def noise_like(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random weights that keep activations finite; what is not floating point stays."""
    generator = torch.Generator().manual_seed(1)
    return {key: _noise(key, value, generator) for key, value in state.items()}


def _arguments(source: Architecture, target: Architecture) -> str:
    """The arguments that are not the same."""
    given = source.args, target.args
    names = sorted(key for key in {**given[0], **given[1]}
                   if given[0].get(key) != given[1].get(key))  # fmt: skip
    return f' (other in their configs: {", ".join(names)})' if names else ''


def _noise(key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value
    if value.dim() > 1:
        fan_in = value[0].numel()
        return torch.randn(value.shape, generator=generator) * max(fan_in, 1) ** -0.5
    if key.endswith(('weight', 'running_var')):
        return torch.rand(value.shape, generator=generator) + 0.5
    return torch.randn(value.shape, generator=generator) * 0.1
