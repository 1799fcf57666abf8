"""Collectives that are the identity without a process group.

Global image order: image ``b`` of rank ``r`` has index ``b * W + r``. That is how MMEngine's
samplers deal one stream of samples to W ranks, so W processes see the images of one step in the
order in which one process would.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def distributed() -> bool:
    """Whether a process group of more than one rank exists."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if distributed() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if distributed() else 0


def all_gather_cat(x: Tensor) -> Tensor:
    """Concatenate the ranks' ``x`` of equal shapes along dim 0, rank by rank. No gradient."""
    if not distributed():
        return x.detach()
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


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
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_gather_cat(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return reduce_scatter_sum(grad)


def gather_with_grad(x: Tensor) -> Tensor:
    """:func:`all_gather_cat` whose backward sums over ranks what each of them owes to a row.

    With gradients averaged by DDP, a loss that every rank computes on a share of the anchors, and a
    loss that every rank computes whole, both get exactly the gradient of one process.
    """
    return _GatherWithGrad.apply(x) if distributed() else x


def global_image_index(batch: int, device: torch.device) -> Tensor:
    """Global indices (B,) of this rank's images."""
    return torch.arange(batch, device=device) * world_size() + rank()


def gather_images(x: Tensor) -> Tensor:
    """Gather (B, ...) of every rank to (W * B, ...) in global image order. No gradient."""
    gathered = all_gather_cat(x)
    # rank-major (W, B, ...) -> image-major (B, W, ...)
    return gathered.unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)
