"""Geometry of the images of a batch: distances and angles of RKD (arXiv 1904.05068)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocks import blocks, rows_per_block
from .maps import full_precision, normalize_rows, promote

#: Least squared distance of two samples, as in the authors' code.
SQUARED_FLOOR = 1e-12


def _products(x: Tensor, normalize: bool) -> Tensor:
    """Products of all pairs of centred samples, (B, ...) -> (B, B) in float64.

    Squared distances are differences of these, which cancel for close samples far from the origin:
    hence the mean of the batch is subtracted first, and the products have double precision.
    """
    x = promote(x).flatten(1)  # (B, ...) -> (B, d)
    x = (normalize_rows(x) if normalize else x).double()
    x = x - x.mean(0)
    return x @ x.T  # (B, d) @ (d, B) -> (B, B)


def _squared(products: Tensor) -> Tensor:
    """``|x_i - x_j|^2`` of all pairs from their products, (B, B) -> (B, B)."""
    length = products.diagonal()
    return length[:, None] + length - 2 * products


def _distances(products: Tensor) -> Tensor:
    """Distances in units of their mean over all pairs of two samples, (B, B) -> (B, B)."""
    others = ~torch.eye(len(products), dtype=torch.bool, device=products.device)
    # where the floor holds, as on the diagonal, no gradient passes
    distances = _squared(products).clamp_min(SQUARED_FLOOR).sqrt() * others
    return distances * (others.sum() / distances.sum().clamp_min(SQUARED_FLOOR))


def batch_distances(student: Tensor, teacher: Tensor, normalize: bool = False) -> Tensor:
    """Smooth L1 of the networks' distances between samples (RKD-D, arXiv 1904.05068).

    Each network's distances are divided by their mean over pairs of different samples, with
    gradient. Two samples in one place have distance 1e-6 and no gradient.

    Args:
        student: Features (B, ...).
        teacher: Features (B, ...) of any size; they get no gradient.
        normalize: Scale samples to unit length first.

    Returns:
        The mean over all B * B pairs, the diagonal's zeros included, at least float32 under any
        autocast. It is constant for B < 3.
    """
    with full_precision(student):
        mine, theirs = (_distances(_products(x, normalize)) for x in (student, teacher.detach()))
        return F.smooth_l1_loss(mine, theirs).to(promote(student).dtype)


def _cosines(products: Tensor, apexes: slice) -> Tensor:
    """Cosine of the angle at a between j and k, (B, B) -> (r, B, B) for r apexes a."""
    at = products[apexes]  # (r, B), the apexes' products with all samples
    own = products.diagonal()[apexes, None]  # (r, 1)
    squared = own + products.diagonal() - 2 * at  # (r, B)
    apart = squared > SQUARED_FLOOR  # not the apex itself, nor a sample in its place
    inverse = torch.where(apart, squared, torch.inf).rsqrt()
    # <x_j - x_a, x_k - x_a>: (B, B) - (r, B, 1) - (r, 1, B) + (r, 1, 1) -> (r, B, B)
    inner = products - at[:, :, None] - at[:, None] + own[:, None]
    return inner * inverse[:, :, None] * inverse[:, None]


def _angle_difference(mine: Tensor, theirs: Tensor, apexes: slice) -> Tensor:
    return F.smooth_l1_loss(_cosines(mine, apexes), _cosines(theirs, apexes), reduction='sum')


def batch_angles(
    student: Tensor, teacher: Tensor, normalize: bool = False, chunk: int | None = None
) -> Tensor:
    """Smooth L1 of the networks' angles between samples (RKD-A, arXiv 1904.05068).

    For every ordered triple (a, j, k) the cosine of the angle at a between j and k; it is 0 where j
    or k is a or lies in its place. Apexes are treated in blocks, which the backward pass computes
    again, so that nothing of B * B * B or B * B * d is held.

    Args:
        student: Features (B, ...).
        teacher: Features (B, ...) of any size; they get no gradient.
        normalize: Scale samples to unit length first.
        chunk: Apexes of a block; by default what stays in the processor's cache (CUDA: what 256 MiB
            hold).

    Returns:
        The mean over all B * B * B triples, at least float32 under any autocast. It is constant for
        B < 3.
    """
    with full_precision(student):
        mine, theirs = (_products(x, normalize) for x in (student, teacher.detach()))
        batch = len(mine)
        rows = rows_per_block(batch, batch**2, mine, chunk)
        total = mine.new_zeros(())
        for apexes in blocks(batch, rows):
            part = checkpoint(
                _angle_difference,
                mine,
                theirs,
                apexes,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            total = total + part
        return (total / batch**3).to(promote(student).dtype)
