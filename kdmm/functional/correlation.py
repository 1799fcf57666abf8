"""Correlations: of classes over space (CSD of DSD), of predictions (DIST), of neighbours (CC)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .maps import NORM_FLOOR, full_precision, map_to_rows, promote

#: Added to the product of two lengths in DIST, as in its authors' code.
PEARSON_EPS = 1e-8


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


def _pearson(student: Tensor, teacher: Tensor, skip_flat: bool = False) -> Tensor:
    """Mean over rows of the correlation coefficient of two matrices (R, N)."""
    # (R, N), each row with mean 0
    mine, theirs = (x - x.mean(1, keepdim=True) for x in (student, teacher))
    lengths = [x.norm(dim=1) for x in (mine, theirs)]  # (R,)
    found = (mine * theirs).sum(1) / (lengths[0] * lengths[1] + PEARSON_EPS)
    # a row of one value but for rounding has no direction that could be learnt
    constant = lengths[0] <= NORM_FLOOR * student.norm(dim=1)
    found = torch.where(constant, 0, found)
    if not skip_flat:
        return found.mean()
    varied = (lengths[0] >= NORM_FLOOR) & (lengths[1] >= NORM_FLOOR)
    # where nothing varies the mean of no rows is taken for a perfect correlation
    return torch.where(varied.any(), (found * varied).sum() / varied.sum().clamp_min(1), 1)


def prediction_correlation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    skip_flat: bool = False,
) -> tuple[Tensor, Tensor]:
    """One minus the correlation of softened predictions, by sample and by class (DIST).

    arXiv 2205.10536. With ``P = softmax(logits / T)`` of all samples as a matrix of samples by
    classes and Pearson's coefficient rho, the first part is ``T^2 (1 - mean over rows of rho)``
    (*inter*-class relation), the second ``T^2 (1 - mean over columns of rho)`` (*intra*-class: one
    class over all samples). 1e-8 is added to the denominator of rho, as in the authors' code. A row
    or column of the student that is constant up to 1e-6 of its length has rho = 0 and no gradient,
    where that of the quotient would be up to 1e8, as at a classifier that starts with zeros.

    Args:
        student_logits: (B, K), or maps (B, K, h, w) whose B * h * w pixels are the samples.
        teacher_logits: The same shape; they get no gradient.
        temperature: T.
        skip_flat: Leave out of the second part a class whose probabilities, in either network, have
            a length below 1e-6 around their mean. By default it counts with a rho near 0, a
            constant of the batch, as published.

    Returns:
        Two scalars, at least float32 under any autocast.
    """
    with full_precision(student_logits):
        maps = (student_logits, teacher_logits.detach())
        # (B, K, h, w) -> (B * h * w, K)
        rows = [promote(map_to_rows(x) if x.ndim == 4 else x) for x in maps]
        mine, theirs = ((x / temperature).softmax(1) for x in rows)
        inter = 1 - _pearson(mine, theirs)
        intra = 1 - _pearson(mine.T, theirs.T, skip_flat)  # (K, R)
        return temperature**2 * inter, temperature**2 * intra


def neighbour_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Products of the networks' differences for neighbours in the batch (CC, arXiv 1904.01802).

    ``mean over i of <d_i, d_(i+1)>`` with ``d_i = |student_i - teacher_i|``, entry by entry. That
    is what the authors' code computes, not the Gaussian kernel of the paper. It depends on the
    order of the batch.

    Args:
        student: Embeddings (B, D).
        teacher: Embeddings (B, D). They get a gradient, too: where the teacher is frozen, detach
            what they are made of.

    Returns:
        The mean over the B - 1 pairs of neighbours, at least float32 under any autocast; 0 if B is
        1.
    """
    with full_precision(student):
        difference = (promote(student) - promote(teacher)).abs()  # (B, D)
        products = (difference[:-1] * difference[1:]).sum(1)  # (B - 1,)
        return products.sum() / max(len(products), 1)
