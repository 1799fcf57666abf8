"""Arithmetic that no autocast may round."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def promote(x: Tensor) -> Tensor:
    """Half types become float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager:
    """A context in which autocast is off for the device of ``x``."""
    if x.is_meta:  # shapes only, autocast does not know the device
        return nullcontext()
    return torch.autocast(device_type=x.device.type, enabled=False)


def refuse_second_order(name: str) -> None:
    """Called in a backward pass: raise if that pass is itself being recorded.

    Raises:
        RuntimeError: Under ``create_graph=True``. The gradient was formed in the forward pass, so
            a second derivative would silently be missing.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f'{name} gives first derivatives only (its gradient is formed in the forward pass); '
            'create_graph=True is not supported through it'
        )
