"""Similarities of the images of a batch: SP (arXiv 1907.09682) and PKT (arXiv 1803.10837)."""

import math

import torch
from torch import Tensor

from .maps import NORM_FLOOR, full_precision, normalize_rows, promote

#: Added to lengths and probabilities of PKT, as in its authors' code.
PKT_EPS = 1e-7


def _reduce(values: Tensor, reduction: str) -> Tensor:
    # (B, B): the mean over everything, or the sum over a row and the mean over rows
    if reduction not in ('mean', 'rows'):
        raise ValueError(f"reduction is 'mean' or 'rows', not {reduction!r}")
    return values.mean() if reduction == 'mean' else values.sum(1).mean()


def _similarity_rows(x: Tensor) -> Tensor:
    """Products of all pairs of samples, each row of unit length: (B, ...) -> (B, B)."""
    x = promote(x).flatten(1)  # (B, ...) -> (B, d)
    # Rows do not depend on the batch's scale, so a sample counts as zero in relation to the others.
    scale = x.detach().square().sum(1).mean().sqrt()
    x = x / torch.where(scale > 0, scale, 1)
    return normalize_rows(x @ x.T)  # (B, d) @ (d, B) -> (B, B)


def batch_similarity_mse(student: Tensor, teacher: Tensor, reduction: str = 'mean') -> Tensor:
    """Squared difference of the networks' B x B similarity maps (SP, arXiv 1907.09682).

    ``G = F F^T`` of the flattened features F, each row scaled to unit length. A sample of length 0
    has a row of zeros, which gets no gradient; in the other samples' rows it counts as any other.

    Args:
        student: Features (B, ...).
        teacher: Features (B, ...) of any size; they get no gradient.
        reduction: ``'mean'``: over the B * B entries, as published; at most 2 / B for non-negative
            features. ``'rows'``: the sum over a row, mean over the B rows; at most 2 at any B.

    Returns:
        A scalar, at least float32 under any autocast.

    Raises:
        ValueError: For another reduction.
    """
    with full_precision(student):
        difference = _similarity_rows(student) - _similarity_rows(teacher.detach())
        return _reduce(difference.square(), reduction)


def _probabilities(x: Tensor) -> Tensor:
    """Each sample's distribution over the batch, by its cosines: (B, ...) -> (B, B)."""
    x = promote(x).flatten(1)  # (B, ...) -> (B, d)
    norm = x.norm(dim=1, keepdim=True)  # (B, 1)
    # a sample without a direction is infinitely long here: cosine 0, and no gradient
    rows = x / (norm + PKT_EPS).masked_fill(norm < NORM_FLOOR, math.inf)
    similarity = (rows @ rows.T + 1) / 2  # (B, d) @ (d, B) -> (B, B)
    return similarity / similarity.sum(1, keepdim=True)


def batch_probability_kl(student: Tensor, teacher: Tensor, reduction: str = 'mean') -> Tensor:
    """KL(teacher || student) of each sample's distribution over the batch (PKT, arXiv 1803.10837).

    The distribution over samples, the sample itself included, is ``(1 + cosine) / 2`` divided by
    its sum over the row. Lengths and probabilities have 1e-7 added, as in the authors' code.

    Args:
        student: Features (B, ...).
        teacher: Features (B, ...) of any size; they get no gradient.
        reduction: ``'mean'``: over the B * B entries, as published; the value falls as 1 / B.
            ``'rows'``: KL of a row, mean over the B rows.

    Returns:
        A scalar, at least float32 under any autocast.

    Raises:
        ValueError: For another reduction.
    """
    with full_precision(student):
        mine, target = _probabilities(student), _probabilities(teacher.detach())
        terms = target * ((target + PKT_EPS).log() - (mine + PKT_EPS).log())
        return _reduce(terms, reduction)
