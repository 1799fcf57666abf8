"""Geometry of the images of a batch: distances and angles of RKD (arXiv 1904.05068)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import blocks, empty_blocks, refuse_second_order, rows_per_block
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


def _inverse_distances(products: Tensor) -> Tensor:
    """``1 / |x_i - x_j|`` of all pairs, 0 where both are in one place, (B, B) -> (B, B)."""
    squared = _squared(products)
    return squared.rsqrt().masked_fill(squared <= SQUARED_FLOOR, 0)


def _cosines(products: Tensor, inverse: Tensor, apexes: slice, out: Tensor) -> Tensor:
    """Cosine of the angle at a between j and k for r apexes a, in ``out`` (r, B, B)."""
    at, scale = products[apexes], inverse[apexes]  # (r, B)
    own = products.diagonal()[apexes, None, None]  # (r, 1, 1)
    # <x_j - x_a, x_k - x_a>: (B, B) - (r, B, 1) - (r, 1, B) + (r, 1, 1) -> (r, B, B)
    torch.sub(products, at[:, :, None], out=out).sub_(at[:, None]).add_(own)
    return out.mul_(scale[:, :, None]).mul_(scale[:, None])


class _Angles(torch.autograd.Function):
    """Blocks of apexes; the gradient for the student's products is formed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, theirs: Tensor, rows: int, need_grad: bool) -> Tensor:
        batch, total = len(mine), mine.new_zeros(())
        inverse, target = _inverse_distances(mine), _inverse_distances(theirs)  # (B, B)
        buffers = empty_blocks(mine, rows, batch**2)
        grad = torch.zeros_like(mine) if need_grad else None
        for apexes in blocks(batch, rows):
            shape = (len(mine[apexes]), batch, batch)
            cosines, difference, slope = (x[: math.prod(shape)].view(shape) for x in buffers)
            _cosines(mine, inverse, apexes, cosines)
            _cosines(theirs, target, apexes, difference)
            torch.sub(cosines, difference, out=difference)
            # smooth L1 of d is c (d - c / 2) with c, its derivative, d within [-1, 1]
            torch.clamp(difference, -1, 1, out=slope)
            flat = slope.flatten()
            total += torch.dot(flat, difference.flatten()) - torch.dot(flat, flat) / 2
            if grad is None:
                continue
            # gradient for the squared distances of apex and sample, (r, B, B) -> (r, B)
            lengths = -inverse[apexes].square() * cosines.mul_(slope).sum(2)
            # gradient for the products of two arms, symmetric in j and k: (r, B, B)
            arms = slope.mul_(inverse[apexes, :, None]).mul_(inverse[apexes, None])
            grad += arms.sum(0)
            by_apex = arms.sum(2) + lengths  # (r, B)
            grad[apexes] -= 2 * by_apex
            grad.diagonal()[apexes] += by_apex.sum(1)
            grad.diagonal().add_(lengths.sum(0))
        if grad is not None:
            ctx.save_for_backward(grad.div_(batch**3))
        return total / batch**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order('batch_angles', 'autograd on the cosines of all triples')
        return grad * ctx.saved_tensors[0], None, None, None


def batch_angles(
    student: Tensor, teacher: Tensor, normalize: bool = False, chunk: int | None = None
) -> Tensor:
    """Smooth L1 of the networks' angles between samples (RKD-A, arXiv 1904.05068).

    For every ordered triple (a, j, k) the cosine of the angle at a between j and k; it is 0 where j
    or k is a or lies in its place. Apexes are treated in blocks, and the gradient is formed in the
    forward pass, so that nothing of B * B * B or B * B * d is held. First derivatives only.

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
        rows = rows_per_block(len(mine), len(mine) ** 2, mine, chunk)
        need_grad = torch.is_grad_enabled() and mine.requires_grad
        return _Angles.apply(mine, theirs, rows, need_grad).to(promote(student).dtype)
