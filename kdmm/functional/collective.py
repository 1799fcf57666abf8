"""Collectives that are the identity without a process group.

Global image order: image ``b`` of rank ``r`` has index ``b * W + r``. That is how MMEngine's
samplers deal one stream of samples to W ranks, so W processes see the images of one step in the
order in which one process would.

Ranks are taken to have equally many images, and shapes do not travel. Where a loader may give a
rank fewer than another (the last batch of an epoch), `expect_uneven` makes every gather of rows
agree on the shapes first, which costs a small collective and, on a GPU, a wait for it.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdmm.errors import ShapeError

_uneven = False


def expect_uneven(uneven: bool) -> None:
    """Say, alike on all ranks, whether gathers must agree on how many rows each rank has."""
    global _uneven
    _uneven = uneven


def distributed() -> bool:
    """True if a process group of more than one rank exists."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if distributed() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if distributed() else 0


def all_gather_cat(x: Tensor) -> Tensor:
    """Concatenate the ranks' ``x`` along dim 0, rank by rank. No gradient.

    Their shapes must be equal; after `expect_uneven`, but for dim 0.

    Raises:
        ValueError: After `expect_uneven`, on all ranks, if other dimensions differ.
    """
    return torch.cat(_gathered(x)) if distributed() else x.detach()


def _gathered(x: Tensor) -> list[Tensor]:
    x = x.detach().contiguous()
    sizes = _rows_of_ranks(x) if _uneven else [len(x)] * world_size()
    if len(x) < max(sizes):
        x = torch.cat([x, x.new_zeros(max(sizes) - len(x), *x.shape[1:])])
    parts = [torch.empty_like(x) for _ in sizes]
    dist.all_gather(parts, x)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _rows_of_ranks(x: Tensor) -> list[int]:
    """Length of each rank's ``x`` in dim 0; the other dimensions must be equal."""
    own = torch.tensor(x.shape, device=x.device)
    shapes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(shapes, own)
    found = torch.stack(shapes).tolist()
    if any(shape[1:] != found[0][1:] for shape in found):
        raise ShapeError(
            f'what is gathered from all ranks must be of one shape but for dim 0, got {found}',
            'ranks',
        )
    return [shape[0] for shape in found]


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of the ranks' ``x``. No gradient."""
    total = x.detach().clone()
    if distributed():
        dist.all_reduce(total)
    return total


def reduce_scatter_sum(x: Tensor) -> Tensor:
    """Sum of the ranks' ``x`` (W * n, ...), of which this rank keeps its own n rows."""
    rows = x.shape[0] // world_size()
    if x.is_cuda and 'nccl' in dist.get_backend():
        own = x.new_empty(rows, *x.shape[1:])
        dist.reduce_scatter_tensor(own, x.contiguous())
        return own
    # gloo has no reduce-scatter
    return sum_over_ranks(x.contiguous())[rank() * rows : (rank() + 1) * rows]


class _GatherWithGrad(torch.autograd.Function):
    """Its gradient is `_SumOverRanks`, and that one's is this: it has derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = _gathered(x)
        ctx.sizes = [len(part) for part in parts]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SumOverRanks.apply(grad, ctx.sizes)


class _SumOverRanks(torch.autograd.Function):
    """Sum of the ranks' tensors, of which this rank keeps its own rows; ranks have ``sizes``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        if len(set(sizes)) == 1:
            return reduce_scatter_sum(x)
        return sum_over_ranks(x.contiguous()).split(sizes)[rank()]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _GatherWithGrad.apply(grad), None


def gather_with_grad(x: Tensor) -> Tensor:
    """:func:`all_gather_cat` whose backward sums over ranks what each of them owes to a row.

    The backward pass can be differentiated again, on all ranks alike.

    With gradients averaged by DDP, a loss that every rank computes on a share of the anchors, and a
    loss that every rank computes whole, both get exactly the gradient of one process.
    """
    return _GatherWithGrad.apply(x) if distributed() else x


class _MeanOverRanks(torch.autograd.Function):
    """Its gradient is itself: of the sum of what the ranks compute with the mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_ranks(x) / world_size()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _MeanOverRanks.apply(grad)


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean of the ranks' ``x``, equal on all; differentiable any number of times, alike on all.

    Gradients are those of the sum over ranks of what they compute, as DDP's are of the mean.
    """
    return _MeanOverRanks.apply(x) if distributed() else x


def global_image_index(batch: int, device: torch.device) -> Tensor:
    """Global indices (B,) of this rank's images."""
    return torch.arange(batch, device=device) * world_size() + rank()


def gather_images(x: Tensor) -> Tensor:
    """Gather (B, ...) of every rank to (W * B, ...) in global image order. No gradient.

    Of ranks with different B, see `expect_uneven`, those with fewer images are left out where they
    have none any more.
    """
    if not distributed():
        return x.detach()
    parts = _gathered(x)
    if len({len(part) for part in parts}) == 1:
        return torch.stack(parts, 1).flatten(0, 1)  # W times (B, ...) -> (B, W, ...)
    rows = [
        part[index] for index in range(max(map(len, parts))) for part in parts if index < len(part)
    ]
    return torch.stack(rows)
