"""Maps of attention: their transfer (AT, arXiv 1612.03928) and paths (PSD, arXiv 2107.08591)."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .maps import full_precision, normalize_rows, promote


def attention_map(x: Tensor) -> Tensor:
    """Energy of each pixel, ``mean_c x^2``, as a vector of unit length per image.

    (B, C, h, w) -> (B, h * w), at least float32 under any autocast.
    """
    with full_precision(x):
        # (B, C, h, w) -> (B, h, w) -> (B, h * w)
        return normalize_rows(promote(x).square().mean(1).flatten(1))


def _reduce(difference: Tensor, reduction: str) -> Tensor:
    # (..., h * w): the mean over everything, or the sum over pixels and the mean over the rest
    if reduction not in ('mean', 'image'):
        raise ValueError(f"reduction is 'mean' or 'image', not {reduction!r}")
    mean = difference.square().mean()
    return mean if reduction == 'mean' else mean * difference.shape[-1]


def attention_transfer(student: Tensor, teacher: Tensor, reduction: str = 'mean') -> Tensor:
    """Squared difference of the networks' attention maps (AT, arXiv 1612.03928).

    Args:
        student: Features (B, C_s, h, w).
        teacher: Features (B, C_t, h, w); they get no gradient.
        reduction: ``'mean'``: over all B * h * w pixels; at most 2 / (h w), since the maps have
            unit length. ``'image'``: the sum over pixels, mean over the B images; at most 2 at any
            resolution.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: For another reduction.
    """
    return _reduce(attention_map(student) - attention_map(teacher.detach()), reduction)


def _paths(maps: Sequence[Tensor]) -> Tensor:
    # (pairs, B, h * w): unit differences of every two layers' attention, later minus earlier
    attention = [attention_map(x) for x in maps]  # each (B, h * w)
    pairs = torch.stack([later - first for first, later in combinations(attention, 2)])
    return normalize_rows(pairs, dim=2)


def path_differences(
    student: Sequence[Tensor], teacher: Sequence[Tensor], reduction: str = 'mean'
) -> Tensor:
    """Squared difference of how attention moves between layers (PSD of DSD, arXiv 2107.08591).

    For every two layers the difference of their attention maps, scaled to unit length (divided by
    at least 1e-6; maps that differ by less get no gradient), is compared between the networks.

    Args:
        student: At least two maps (B, C_i, h, w), all of one h x w.
        teacher: As many maps (B, D_i, h, w); they get no gradient.
        reduction: ``'mean'``: over pairs and all B * h * w pixels; at most 4 / (h w). ``'image'``:
            the sum over pixels, mean over pairs and images; at most 4 at any resolution.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: For another reduction.
    """
    with full_precision(student[0]):
        return _reduce(_paths(student) - _paths([x.detach() for x in teacher]), reduction)
