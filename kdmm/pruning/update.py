"""One update of soft filter pruning: the filters with the lowest norms are scaled (SFP, SRFP)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kdmm.pruning.schedule import ROUNDING
from kdmm.pruning.selection import Prunable, select_prunable

Granularity = Literal['filter', 'weight']


def pruned_count(size: int, rate: float) -> int:
    """Number of ``size`` filters, or weights, that are pruned at a rate."""
    return math.floor(size * rate + ROUNDING)


def lowest(weight: Tensor, rate: float, norm: float = 2, granularity: str = 'filter') -> Tensor:
    """Choose what is pruned of a layer.

    Args:
        weight: (N, C, k, k).
        rate: Share in [0, 1).
        norm: Order of the filters' norm, which is taken in float32.
        granularity: ``'filter'``, or ``'weight'`` for single weights by their size.

    Returns:
        (n,), places among the N filters, or among all weights in their order in memory; of equal
        norms the first ones.
    """
    rows = weight.detach().float().flatten(1)  # (N, C k k)
    scores = rows.abs().flatten() if granularity == 'weight' else rows.norm(norm, dim=1)
    return scores.argsort(stable=True)[: pruned_count(len(scores), rate)]


@torch.no_grad()
def scale(weight: Tensor, places: Tensor, alpha: float, granularity: str = 'filter') -> None:
    """Multiply filters, or single weights, by alpha in place; what is not named keeps its bits.

    Args:
        weight: (N, C, k, k), of any memory format; or (N,) of a norm.
        places: As `lowest` gives them.
        alpha: In [0, 1].
        granularity: As in `lowest`.
    """
    factors = torch.ones(weight.shape if granularity == 'weight' else len(weight))
    factors = factors.to(weight)
    factors.view(-1)[places] = alpha
    shape = weight.shape if granularity == 'weight' else [-1, *[1] * (weight.ndim - 1)]
    weight.mul_(factors.view(shape))


def prune(
    layers: Sequence[Prunable],
    rate: float,
    alpha: float,
    norm: float = 2,
    granularity: str = 'filter',
    decay_bn: bool = False,
    also: Sequence[Sequence[Prunable]] = (),
) -> int:
    """Scale what is lowest in each layer by alpha (arXiv 2010.09498).

    With the mask M, 0 where pruned, ``W <- W (M + alpha (1 - M))``. Gradients, momentum and,
    without ``decay_bn``, the norms behind stay as they are, so what is pruned moves again in the
    next step and is ranked anew in the next update.

    Args:
        layers: As `select_prunable` gives them.
        rate: Share of each layer.
        alpha: Factor.
        norm: See `lowest`.
        granularity: See `lowest`.
        decay_bn: Scale weight and bias of the BatchNorm behind the filters, too (as in the
            published code of PGMPF). With both 0 in front of a ReLU a filter hardly comes back.
        also: The same layers of copies, in which the same filters are scaled.

    Returns:
        Number of filters that are zero in ``layers``.
    """
    for number, (_, conv, _) in enumerate(layers):
        places = lowest(conv.weight, rate, norm, granularity)
        for _, target, behind in (copy[number] for copy in (layers, *also)):
            scale(target.weight, places, alpha, granularity)
            if decay_bn and behind is not None:
                for value in behind.parameters():
                    scale(value, places, alpha)
    return zero_count(layers)


def zero_filters(conv: nn.Conv2d) -> Tensor:
    """(N,), True for each filter whose weights are all exactly 0."""
    return ~conv.weight.detach().flatten(1).any(1)


def zero_count(layers: Sequence[Prunable]) -> int:
    """Number of zero filters in all layers."""
    return int(torch.stack([zero_filters(conv).sum() for _, conv, _ in layers]).sum())


def finalize(
    model: nn.Module,
    prune_rate: float,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    norm: float = 2,
    granularity: Granularity = 'filter',
    decay_bn: bool = False,
) -> int:
    """Set the lowest filters of each layer to zero, at the rate that training should have ended at.

    For a run that was stopped early, whose filters decay but are not zero yet. The network is then
    one that has not been trained on with this mask; say so with its figures.

    Args:
        model: Not wrapped; changed in place.
        prune_rate: Share of each layer.
        include: See `select_prunable`.
        exclude: Likewise.
        norm: See `lowest`.
        granularity: Likewise.
        decay_bn: See `prune`.

    Returns:
        Number of filters that are zero.
    """
    layers = select_prunable(model, include, exclude)
    return prune(layers, prune_rate, 0.0, norm, granularity, decay_bn)
