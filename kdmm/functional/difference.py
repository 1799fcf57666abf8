"""Differences of features: plain (FitNet), and by a Gaussian's likelihood (VID)."""

import torch.nn.functional as F
from torch import Tensor

from .maps import full_precision, promote


def mean_squared_difference(
    student: Tensor, teacher: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Mean over all B * C * h * w entries of (student - teacher)^2 (FitNet, arXiv 1412.6550).

    Args:
        student: Features (B, C, h, w).
        teacher: Features of the same shape; they get no gradient.
        valid: Boolean (B, h, w). Other pixels count neither in the sum nor in the mean's
            denominator; none at all gives exactly 0.

    Returns:
        A scalar, at least float32 under any autocast.
    """
    with full_precision(student):
        student, teacher = promote(student), promote(teacher.detach())
        if valid is None:
            return F.mse_loss(student, teacher)
        # (B, h, w) -> (B, 1, h, w), for all channels
        difference = (student - teacher).masked_fill(~valid[:, None], 0)
        return difference.square().sum() / (valid.sum() * student.shape[1]).clamp_min(1)


def gaussian_nll(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's features (VID, arXiv 1904.05835, equation 5).

    ``(mean - teacher)^2 / (2 v) + log(v) / 2``, without the constant: it may be negative.

    Args:
        mean: Of the Gaussian at each entry, (B, C, h, w).
        teacher: Features of the same shape; they get no gradient.
        variance: v of each channel (C,), positive.

    Returns:
        The mean over all B * C * h * w entries, at least float32 under any autocast.
    """
    with full_precision(mean):
        variance = promote(variance)[:, None, None]  # (C,) -> (C, 1, 1)
        squared = (promote(mean) - promote(teacher.detach())).square()
        return (squared / variance + variance.log()).mean() / 2
