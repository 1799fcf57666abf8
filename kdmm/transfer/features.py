"""The features of a network, and how two networks' compare."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError
from kdmm.transfer.families import Family
from kdmm.utils.tree import leaves


class ProofError(RuntimeError):
    """Source and target do not compute the same; nothing was written."""


@torch.no_grad()
def features(net: nn.Module, family: Family, size: tuple[int, int]) -> list[Tensor]:
    """Outputs of the stages, or what the network returns, for an input that is always the same.

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
            f'--size: {type(net).__name__} does not take {size[0]} x {size[1]} ({error})'
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def same_number(
    source: Sequence[Tensor], target: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The maps that both have.

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
    """Of the target's map, relative to the largest value of the source's.

    Raises:
        ProofError: If the source's is not finite.
    """
    if not ours.isfinite().all():
        raise ProofError('the features of the source are not finite: its weights are broken')
    if torch.equal(ours, theirs):
        return 0.0
    return ((ours - theirs).abs().max() / ours.abs().max()).nan_to_num(torch.inf).item()
