"""Scores of anchors against a few rows each of a bank that lies in memory once."""

from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from .blocks import block_elements, blocks
from .maps import full_precision, promote

#: Up to so many bank rows for each drawn one, on a CPU, a product with all of them is quicker: for
#: one anchor an image by a factor of 3 there, and for four no slower.
_ROWS_PER_DRAWN = 8


def scores_all_rows(device: torch.device, rows: int, drawn: int) -> bool:
    """Return what :func:`bank_scores` takes for ``whole`` by default.

    Args:
        device: Of the anchors.
        rows: n of the banks.
        drawn: M, the rows for each image.
    """
    return device.type == 'cpu' and rows <= _ROWS_PER_DRAWN * drawn


def bank_scores(anchors: Tensor, banks: Tensor, index: Tensor, whole: bool | None = None) -> Tensor:
    """Products of each anchor with the rows that were drawn for its image, from every bank.

    Neither the forward nor the backward pass holds the drawn rows of all images at once, and
    nothing of them is kept in between: the backward pass fetches them again.

    Args:
        anchors: Rows (J, B, D).
        banks: Rows (I, n, D), constants; they may be of a half type. They must not be written
            between forward and backward, which autograd refuses.
        index: Rows drawn for each image (B, M), the same for all banks and anchors.
        whole: Multiply with all n rows and pick (the quicker for small n), or fetch what was drawn;
            by default by size. On a GPU the former's gradient would depend on the order of atomic
            additions, so there it is on request only.

    Returns:
        (I, J, B, M), at least float32 under any autocast: entry ``[i, j, b, m]`` is
        ``<banks[i, index[b, m]], anchors[j, b]>``. Only the anchors get gradients, of any order.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if (
        (anchors.ndim, banks.ndim, index.ndim) != (3, 3, 2)
        or anchors.shape[1] != len(index)
        or anchors.shape[2] != banks.shape[2]
    ):
        raise ShapeError(
            'anchors must be (J, B, D), banks (I, n, D) and the index (B, M)',
            'form',
            anchors=anchors,
            banks=banks,
            index=index,
        )
    if whole is None:
        whole = scores_all_rows(anchors.device, banks.shape[1], index.shape[1])
    with full_precision(anchors):
        return _Scores.apply(promote(anchors), banks, index, whole)


def cross_bank_scores(
    anchors: Tensor, banks: Tensor, index: Tensor, tau: float = 0.07, whole: bool | None = None
) -> Tensor:
    """Similarities of two networks' anchors with the other's bank (CRD, arXiv 1910.10699).

    Args:
        anchors: Unit rows (2, B, D).
        banks: Rows (2, n, D) of the networks in the same order, constants.
        index: Rows drawn for each image (B, M).
        tau: Temperature of the similarities.
        whole: See :func:`bank_scores`.

    Returns:
        (2, B, M), at least float32 under any autocast: entry ``[i, b, m]`` is
        ``<banks[1 - i, index[b, m]], anchors[i, b]> / tau``.

    Raises:
        ValueError: If the shapes do not fit, or ``tau`` is not positive.
    """
    if len(anchors) != 2 or len(banks) != 2:
        raise ShapeError('two networks are scored', 'form', anchors=anchors, banks=banks)
    if not tau > 0:
        raise ValueError(f'tau must be positive, got {tau!r}')
    with full_precision(anchors):
        anchors = promote(anchors) / tau
    # (1, B, D), (1, n, D), (B, M) -> (1, 1, B, M)
    parts = [bank_scores(anchors[i : i + 1], banks[1 - i : 2 - i], index, whole) for i in (0, 1)]
    return torch.cat(parts)[:, 0]


class _Scores(torch.autograd.Function):
    """Linear in the anchors; its gradient is `_WeightedRows`, and that one's is this."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, banks: Tensor, index: Tensor, whole: bool) -> Tensor:
        ctx.save_for_backward(banks, index)
        ctx.whole = whole
        return (_scores_whole if whole else _scores)(anchors, banks, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        with full_precision(grad):  # backward may be called under autocast
            return _WeightedRows.apply(grad, *ctx.saved_tensors, ctx.whole), None, None, None


class _WeightedRows(torch.autograd.Function):
    """Weights (I, J, B, M) -> sums of the drawn rows (J, B, D)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, banks: Tensor, index: Tensor, whole: bool) -> Tensor:
        ctx.save_for_backward(banks, index)
        ctx.whole = whole
        return (_weighted_whole if whole else _weighted)(weights, banks, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        with full_precision(grad):
            return _Scores.apply(grad, *ctx.saved_tensors, ctx.whole), None, None, None


def _parts(like: Tensor, elements: int, images: int) -> list[slice]:
    """Slices of images that need ``elements`` each, at least one image a slice."""
    return list(blocks(images, max(block_elements(like) // elements, 1)))


def _fetch(bank: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """(n, D), (b, M) -> (b, M, D)."""
    return bank.index_select(0, index.flatten()).to(like.dtype).view(*index.shape, -1)


def _scores(anchors: Tensor, banks: Tensor, index: Tensor) -> Tensor:
    out = anchors.new_empty(len(banks), len(anchors), *index.shape)
    for part in _parts(anchors, index.shape[1] * banks.shape[2], len(index)):
        own = anchors[:, part].transpose(0, 1)  # (b, J, D)
        for bank, target in zip(banks, out, strict=True):
            rows = _fetch(bank, index[part], anchors)  # (b, M, D)
            # (b, J, D) @ (b, D, M) -> (b, J, M)
            target[:, part] = (own @ rows.mT).transpose(0, 1)
    return out


def _weighted(weights: Tensor, banks: Tensor, index: Tensor) -> Tensor:
    out = weights.new_zeros(len(index), weights.shape[1], banks.shape[2])  # (B, J, D)
    for part in _parts(weights, index.shape[1] * banks.shape[2], len(index)):
        for bank, weight in zip(banks, weights, strict=True):
            # (b, J, M) @ (b, M, D) -> (b, J, D)
            rows = _fetch(bank, index[part], weights)
            out[part] += weight[:, part].transpose(0, 1) @ rows
    return out.transpose(0, 1)


def _scores_whole(anchors: Tensor, banks: Tensor, index: Tensor) -> Tensor:
    out = anchors.new_empty(len(banks), len(anchors), *index.shape)
    for part in _parts(anchors, len(anchors) * banks.shape[1], len(index)):
        chosen = index[part].expand(len(anchors), -1, -1)
        for bank, target in zip(banks, out, strict=True):
            # (J, b, D) @ (D, n) -> (J, b, n), of which (J, b, M)
            target[:, part] = (anchors[:, part] @ bank.to(anchors.dtype).T).gather(2, chosen)
    return out


def _weighted_whole(weights: Tensor, banks: Tensor, index: Tensor) -> Tensor:
    number = weights.shape[1]
    out = weights.new_zeros(number, len(index), banks.shape[2])
    for part in _parts(weights, number * banks.shape[1], len(index)):
        chosen = index[part].expand(number, -1, -1)
        for bank, weight in zip(banks, weights, strict=True):
            # (J, b, M) -> (J, b, n); then @ (n, D) -> (J, b, D)
            spread = weights.new_zeros(number, chosen.shape[1], len(bank))
            spread.scatter_add_(2, chosen, weight[:, part])
            out[:, part] += spread @ bank.to(weights.dtype)
    return out
