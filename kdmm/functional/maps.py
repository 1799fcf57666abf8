"""Feature and label maps in the form that losses read.

At least float32 under any autocast, rows of unit length, labels at the features' resolution.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

NORM_FLOOR = 1e-6


def promote(x: Tensor) -> Tensor:
    """Convert half types to float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager:
    """Switch autocast off for the device of ``x`` while the context lasts."""
    if x.is_meta:  # shapes only, autocast does not know the device
        return nullcontext()
    return torch.autocast(device_type=x.device.type, enabled=False)


class _Normalize(torch.autograd.Function):
    """Keeps the input only: norms are recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim = dim
        x = promote(x)
        # (..., C, ...) / (..., 1, ...)
        return x / x.norm(dim=dim, keepdim=True).clamp_min_(NORM_FLOOR)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # differentiable operations throughout: under create_graph=True autograd records them
        (saved,) = ctx.saved_tensors
        with full_precision(saved):  # backward may be called under autocast
            x = promote(saved)
            norm = x.norm(dim=ctx.dim, keepdim=True)  # (..., 1, ...)
            # a row without a direction is infinitely long here, so its gradient is exactly 0
            norm = norm.masked_fill(norm < NORM_FLOOR, math.inf)
            unit = x / norm
            radial = (unit * grad).sum(ctx.dim, keepdim=True)  # (..., 1, ...)
            return torch.addcmul(grad, unit, radial, value=-1).div_(norm).to(saved.dtype), None


def normalize_rows(x: Tensor, dim: int = 1) -> Tensor:
    """Scale to unit length, ``x / max(|x|, 1e-6)`` along ``dim``, in at least float32.

    A vector shorter than 1e-6 has no direction that could be learnt: it gets no gradient (exactly
    0), where that of the quotient would be 1e6 times what arrives. One of zeros stays zero.
    Differentiable any number of times.
    """
    with full_precision(x):
        return _Normalize.apply(x, dim)


class _Product(torch.autograd.Function):
    """Its gradients are this again, so it has derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        with full_precision(x):
            return x @ y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad
        return (
            _Product.apply(grad, y.mT) if need_x else None,
            _Product.apply(x.mT, grad) if need_y else None,
        )


def full_product(x: Tensor, y: Tensor) -> Tensor:
    """Matrix product (..., n, k) @ (..., k, m), whose gradients autocast does not round either.

    Autograd's own are products of a half type if the backward pass is called under autocast. The
    leading dimensions must be equal. Differentiable any number of times.
    """
    return _Product.apply(x, y)


def map_to_rows(x: Tensor) -> Tensor:
    """Make a row of each pixel, (B, C, h, w) -> (B * h * w, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Resize to the nearest label, (B, H, W) -> (B, h, w), the last two of ``size``.

    Row i comes from row ``floor(i * H / h)``: in integers, so that no rounding of a scale factor
    can move a pixel.
    """
    height, width = labels.shape[-2:]
    rows = torch.arange(size[-2], device=labels.device) * height // size[-2]  # (h,)
    cols = torch.arange(size[-1], device=labels.device) * width // size[-1]  # (w,)
    return labels.index_select(-2, rows).index_select(-1, cols)


def check_labels(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Refuse labels that are neither a class nor ignored. Waits for the device.

    Raises:
        ValueError: Naming the foreign values and the class count.
    """
    foreign = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if not foreign.any():
        return
    values = labels[foreign].unique().tolist()
    raise ValueError(
        f'labels hold the value{"s" if len(values) > 1 else ""} '
        f'{", ".join(map(str, values[:8]))}, but there are {num_classes} classes '
        f'(0 to {num_classes - 1}) and ignore_index is {ignore_index}: correct num_classes, '
        'ignore_index or the label maps'
    )


def valid_labels(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Boolean mask of the labels that are a class and not ignored."""
    return (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
