"""Losses of a student and all of its ``kd`` at other weights than its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdmm.losses.base import Batch
from kdmm.utils.seeds import random_states, set_random_states


class Elsewhere:
    """Forward passes of a model on one batch, each with weights of the caller's.

    Each call draws the random numbers that the first one draws, and begins with the buffers that
    the model has, so that it is a function of the weights. It leaves weights, gradients, buffers
    and random generators of the model as they are.

    Args:
        model: The student with its ``kd``; not wrapped (DDP).
        batch: Of the last training step.
        shared: Prefixes of buffers that the passes only read, so that they are not copied.
    """

    def __init__(self, model: nn.Module, batch: Batch, shared: Sequence[str] = ()) -> None:
        self.model, self.batch = model, batch
        self.buffers = {
            name: value
            for name, value in model.named_buffers()
            if not name.startswith(tuple(shared))
        }

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of the batch.

        Args:
            weights: Parameters by name; those that are not named are the model's own.
        """
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        with same_draws(self.batch.inputs):
            return functional_call(
                self.model, {**weights, **buffers}, tuple(self.batch), dict(mode='loss')
            )


@contextmanager
def same_draws(inputs: Any) -> Iterator[None]:
    """Restore the states of all random generators behind the block, of the inputs' device, too."""
    device = inputs.device if isinstance(inputs, Tensor) else torch.device('cpu')
    states = random_states()
    on_device = torch.cuda.get_rng_state(device) if device.type == 'cuda' else None
    try:
        yield
    finally:
        set_random_states(states)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)
