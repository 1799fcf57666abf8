"""How strongly losses pull at activations: gradient norms, measured beside the backward pass."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdmm.functional.collective import sum_over_ranks, world_size
from kdmm.functional.precision import full_precision
from kdmm.taps import source_of

#: Losses are multiplied by these for the measurement, so that float16 activations get gradients
#: that do not underflow; norms are divided by them.
SCALE, HALF_SCALE = 2.0**15, 2.0**10


class UnmeasurableError(RuntimeError):
    """The graph between loss and tap gives gradients to ``backward()`` only."""


class Norms(NamedTuple):
    """Gradient norms of a loss at its own activations, and of the task's at the same.

    Attributes:
        loss: Scalar.
        task: Scalar.
        reached: Whether the task's loss depends on any of the activations.
    """

    loss: Tensor
    task: Tensor
    reached: bool


def task_loss(losses: Mapping[str, Any]) -> Tensor:
    """The student's own objective: the sum that MMEngine forms of entries called ``loss``."""
    items = [value for key, value in losses.items() if 'loss' in key]
    flat = [x for item in items for x in (item if isinstance(item, list | tuple) else [item])]
    return torch.stack([x.mean().float() for x in flat]).sum() if flat else torch.zeros(())


def gradient_norms(
    task: Tensor, losses: Sequence[Tensor], activations: Sequence[Sequence[Tensor]]
) -> list[Norms]:
    """L2 norms of the gradients of one step.

    With several processes they are those of the mean over processes, which is what DDP trains on:
    equal on all ranks, and equal to one process's with the whole batch where a loss is a mean over
    images. The graph stays, and nothing is written to ``.grad``.

    Args:
        task: The student's own loss.
        losses: n scalars.
        activations: For each of them the tensors, n sequences.

    Raises:
        UnmeasurableError: If a module between a tap and a loss is activation-checkpointed in the
            reentrant form, or compiled so that its graph can be walked only once.
    """
    every = {id(x): x for group in activations for x in group}
    try:
        sources = [source_of(x) for x in every.values()]  # the task goes on from the originals
    except NotImplementedError as error:
        raise UnmeasurableError(str(error)) from error
    with full_precision(task):
        own = dict(zip(every, _squares(task, sources), strict=True))
        squares = [
            torch.stack([_total(_squares(loss, group), loss), _total(_entries(own, group), loss)])
            for loss, group in zip(losses, activations, strict=True)
        ]
    norms = sum_over_ranks(torch.stack(squares)).sqrt() / world_size()  # (n, 2)
    reached = [any(own[id(x)] is not None for x in group) for group in activations]
    return [Norms(row[0], row[1], r) for row, r in zip(norms, reached, strict=True)]


def _entries(squares: Mapping[int, Tensor | None], group: Sequence[Tensor]) -> list[Tensor | None]:
    """The entries of ``group`` in a table by identity."""
    return [squares[id(x)] for x in group]


def _squares(loss: Tensor, activations: Sequence[Any]) -> list[Tensor | None]:
    """Squared norm of the gradient at each; None where ``loss`` does not depend on it."""
    if not loss.requires_grad or not activations:
        return [None] * len(activations)
    scale = HALF_SCALE if loss.dtype is torch.float16 else SCALE
    start = torch.full_like(loss, scale)
    try:
        grads = torch.autograd.grad(loss, activations, start, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        # reentrant checkpoints; graphs of torch.compile that give their buffers away
        if ('heckpoint' in str(error) and '.grad()' in str(error)) or 'donated' in str(error):
            raise UnmeasurableError(str(error)) from error
        raise
    return [None if grad is None else (_norm(grad) / scale).square() for grad in grads]


def _norm(grad: Tensor) -> Tensor:
    half = grad.dtype in (torch.float16, torch.bfloat16)
    norm = torch.linalg.vector_norm(grad, dtype=torch.float32 if half else None)
    return norm.float()


def _total(squares: Sequence[Tensor | None], like: Tensor) -> Tensor:
    known = [square for square in squares if square is not None]
    return torch.stack(known).sum() if known else like.new_zeros((), dtype=torch.float32)
