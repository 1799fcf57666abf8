"""Supervised contrast between the embeddings of several networks, every pair at once.

The logits of MCL (arXiv 2104.12565, section 3) and the hard loss of SupCon (arXiv 2004.11362).
"""

from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from .maps import full_precision, promote


class _Gram(torch.autograd.Function):
    """(N, B, D) -> (N, N, B, B), one product, and by its symmetry one more in the backward pass."""

    @staticmethod
    def forward(rows: Tensor) -> Tensor:
        flat = rows.flatten(0, 1)  # (N * B, D)
        return (flat @ flat.T).view(2 * rows.shape[:2]).transpose(1, 2).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        there, back = grad.transpose(1, 2), grad.permute(1, 3, 0, 2)  # (N, B, N, B)
        if torch.is_grad_enabled():  # for the gradient of a gradient
            both = there + back
        else:  # in the order of the product, without a copy
            both = torch.empty_like(there, memory_format=torch.contiguous_format)
            torch.add(there, back, out=both)
        # (N * B, N * B) @ (N * B, D) -> (N, B, D)
        with full_precision(grad):  # backward may be called under autocast
            return (both.flatten(2).flatten(0, 1) @ rows.flatten(0, 1)).view_as(rows)


def contrast_logits(embeddings: Tensor, tau: float = 0.1) -> Tensor:
    """Similarities of all images under all ordered pairs of networks.

    Args:
        embeddings: Unit rows (N, B, D) of N networks on the same B images.
        tau: Temperature of the similarities.

    Returns:
        (N, N, B, B), at least float32 under any autocast: entry ``[i, j, a, b]`` is
        ``<anchor a of network i, image b of network j> / tau``.

    Raises:
        ValueError: If the embeddings are not (N, B, D) or ``tau`` is not positive.
    """
    if embeddings.dim() != 3:
        raise ShapeError(
            'embeddings must be stacked as (networks, batch, channels)',
            'form',
            embeddings=embeddings,
        )
    if not tau > 0:
        raise ValueError(f'tau must be positive, got {tau!r}')
    with full_precision(embeddings):
        return _Gram.apply(promote(embeddings) / tau**0.5)


def same_class(labels: Tensor) -> Tensor:
    """Boolean (B, B), true where two images have one label, the diagonal included."""
    return labels[:, None] == labels  # (B, 1) == (B,) -> (B, B)


def supervised_contrast(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    """Cross entropy of each anchor with its positives (SupCon, arXiv 2004.11362, equation 2).

    Per row, ``-(1 / P) sum over positives of (logit - log sum over candidates of exp logit)``.

    Args:
        logits: (..., B, M).
        positives: Boolean, broadcastable to the logits; a subset of the candidates.
        candidates: Boolean, broadcastable to the logits: the columns of the denominator.

    Returns:
        Rows (..., B), at least float32; exactly 0, with no gradient, for a row without positives.
    """
    with full_precision(logits):
        logits = promote(logits)
        # finite: a row of no candidates must not give the gradient of -inf - -inf
        lowest = torch.finfo(logits.dtype).min
        outside = logits.new_zeros(candidates.shape).masked_fill_(~candidates, lowest)
        count = positives.sum(-1, keepdim=True)
        share = positives.to(logits.dtype) / count.clamp_min(1)  # rows of zeros without positives
        # (..., B, M) -> (..., B)
        return -(torch.log_softmax(logits + outside, -1) * share).sum(-1)
