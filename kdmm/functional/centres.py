"""Similarity of pixels to the centre of their class (IFVD, ECCV 2020)."""

import torch
from torch import Tensor

from .maps import full_precision, map_to_rows, normalize_rows, promote, valid_labels


def _centre_similarity(x: Tensor, key: Tensor, groups: int) -> Tensor:
    """Cosine (N,) of each row of the map with the centre of its group."""
    rows = map_to_rows(x)  # (B, C, h, w) -> (N, C)
    # the sum serves as well as the mean: a cosine ignores its length
    # (N, C) -> (groups, C)
    centres = promote(rows).new_zeros(groups, rows.shape[1]).index_add(0, key, promote(rows))
    # (N, C) * (N, C) -> (N,)
    return (normalize_rows(rows) * normalize_rows(centres).index_select(0, key)).sum(1)


def centre_similarity_mse(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    num_classes: int,
    ignore_index: int = 255,
    valid_only: bool = False,
) -> Tensor:
    """Intra-class feature variation (IFVD, Wang et al., ECCV 2020).

    Per image and class the centre is the mean feature of the class's pixels, with gradient; the
    cosine of each pixel with the centre of its class is compared between the networks by squared
    difference. Ignored pixels belong to no class and add nothing.

    The classes are segments of one index: time and memory do not grow with ``num_classes``.

    Args:
        student: Features (B, C_s, h, w).
        teacher: Features (B, C_t, h, w); they get no gradient.
        labels: (B, h, w) int64.
        num_classes: K.
        ignore_index: The ignored label; other labels outside 0..K-1 are ignored as well.
        valid_only: The mean is over all B * h * w pixels by default, as in the authors' code; True
            divides by the number of labelled ones. Without any the result is exactly 0.

    Returns:
        A scalar, at least float32.
    """
    with full_precision(student):
        valid = valid_labels(labels, num_classes, ignore_index)
        groups = len(labels) * num_classes
        image = torch.arange(len(labels), device=labels.device)[:, None, None]  # (B, 1, 1)
        # (B, h, w) -> (B * h * w,); pixels without a class share one group more
        key = torch.where(valid, image * num_classes + labels, groups).flatten()
        target = _centre_similarity(teacher.detach(), key, groups + 1)
        difference = _centre_similarity(student, key, groups + 1) - target
        squares = difference.masked_fill(~valid.flatten(), 0).square()
        return squares.sum() / valid.sum().clamp_min(1) if valid_only else squares.mean()
