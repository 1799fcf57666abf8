"""Feature maps as rows of unit length."""

from typing import Any

import torch
from torch import Tensor

from .precision import full_precision, promote, refuse_second_order

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
        refuse_second_order('normalize_rows')
        (saved,) = ctx.saved_tensors
        x = promote(saved)
        norm = x.norm(dim=ctx.dim, keepdim=True)
        floored = norm < NORM_FLOOR
        norm.clamp_min_(NORM_FLOOR)
        unit = x / norm
        radial = (unit * grad).sum(ctx.dim, keepdim=True).masked_fill_(floored, 0)
        out = torch.addcmul(grad, unit, radial, value=-1).div_(norm)
        if out.dtype != saved.dtype:
            # 1 / floor would overflow float16; elsewhere an overflow must stay visible
            limit = torch.finfo(saved.dtype).max
            out = torch.where(floored, out.clamp(-limit, limit), out)
        return out.to(saved.dtype), None


def normalize_rows(x: Tensor, dim: int = 1) -> Tensor:
    """``x / max(|x|, 1e-6)`` along ``dim``, in at least float32 under any autocast.

    An all-zero vector stays zero and gets a finite gradient. First derivatives only.
    """
    with full_precision(x):
        return _Normalize.apply(x, dim)


def map_to_rows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B * h * w, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
