"""Feature maps as rows of unit length."""

import math
from typing import Any

import torch
from torch import Tensor

from .precision import full_precision, promote

NORM_FLOOR = 1e-6


class _Normalize(torch.autograd.Function):
    """Keeps the input only: norms are recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim = dim
        x = promote(x)
        return x / x.norm(dim=dim, keepdim=True).clamp_min_(NORM_FLOOR)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (saved,) = ctx.saved_tensors
        with full_precision(saved):  # backward may be called under autocast
            x = promote(saved)
            norm = x.norm(dim=ctx.dim, keepdim=True)
            # a row without a direction is infinitely long here, so its gradient is exactly 0
            norm = norm.masked_fill(norm < NORM_FLOOR, math.inf)
            unit = x / norm
            radial = (unit * grad).sum(ctx.dim, keepdim=True)
            return torch.addcmul(grad, unit, radial, value=-1).div_(norm).to(saved.dtype), None


def normalize_rows(x: Tensor, dim: int = 1) -> Tensor:
    """``x / max(|x|, 1e-6)`` along ``dim``, in at least float32 under any autocast.

    A vector shorter than 1e-6 has no direction that could be learnt: it gets no gradient (exactly
    0), where that of the quotient would be 1e6 times what arrives. One of zeros stays zero.
    Differentiable any number of times.
    """
    with full_precision(x):
        return _Normalize.apply(x, dim)


def map_to_rows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B * h * w, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
