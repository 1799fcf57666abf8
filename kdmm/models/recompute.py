"""Activation checkpointing that leaves BatchNorm's running statistics alone."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, whose activations are not kept but computed again in the backward pass.

    Value, gradients and running statistics are those of the plain call: in the second run, which
    would otherwise count every batch twice, BN normalises but does not count.
    """
    result: Any = checkpoint(
        module, x, use_reentrant=False, context_fn=lambda: (nullcontext(), uncounted(module))
    )
    return result


@contextmanager
def uncounted(module: nn.Module) -> Iterator[None]:
    """Within it BN layers in train mode normalise by their batch and count nothing."""
    counting = [
        (part, part.momentum, part.num_batches_tracked)
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.training and part.track_running_stats
    ]
    for part, *_ in counting:
        # the tensors must still be passed: autograd saves as many as in the first run
        part.momentum, part.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for part, momentum, count in counting:
            part.momentum, part.num_batches_tracked = momentum, count
