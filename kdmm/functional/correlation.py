"""Correlation of the classes' spatial distributions (CSD of DSD, arXiv 2107.08591)."""

import torch.nn.functional as F
from torch import Tensor

from .maps import full_precision, promote


def _correlation(logits: Tensor, temperature: float, pool: int) -> Tensor:
    # (B, K, h, w) -> (B, K, h', w')
    pooled = F.avg_pool2d(promote(logits), pool, pool, ceil_mode=True)
    space = (pooled.flatten(2) / temperature).softmax(2)  # (B, K, n)
    return space @ space.transpose(1, 2)  # (B, K, n) @ (B, n, K) -> (B, K, K)


def class_correlation_mse(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, pool: int = 2
) -> Tensor:
    """Squared difference of the K x K maps of class-class correlation (CSD, arXiv 2107.08591).

    Each class's logits, average-pooled, become a distribution P over space; the map is ``P P^T``.
    There is no factor ``T^2``. Values are tiny unless logits are very peaky: 1e-6 for a margin of
    20 at 64 x 128.

    Args:
        student: Logits (B, K, h, w).
        teacher: Logits of the same shape; they get no gradient.
        temperature: T.
        pool: Window and stride of the pooling; incomplete windows at the border count.

    Returns:
        The mean over B * K * K, at least float32 under any autocast.
    """
    with full_precision(student):
        target = _correlation(teacher.detach(), temperature, pool)
        return (_correlation(student, temperature, pool) - target).square().mean()
