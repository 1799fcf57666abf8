"""Mutual contrastive learning of a cohort (MCL, arXiv 2104.12565), contrast within the batch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from .contrast import contrast_logits, same_class, supervised_contrast
from .maps import full_precision, promote


class MutualContrast(NamedTuple):
    """The four terms of MCL, scalars without their weights.

    Attributes:
        vcl: Each network's own supervised contrast.
        soft_vcl: Each network's own distribution learns from those of the others.
        icl: Supervised contrast of a network's anchors with another network's images.
        soft_icl: The distribution of (i, j) learns from that of (j, i).
    """

    vcl: Tensor
    soft_vcl: Tensor
    icl: Tensor
    soft_icl: Tensor


def _own_pairs(x: Tensor) -> Tensor:
    """Of all pairs (N, N, B, M) those of a network with itself, (N, B, M)."""
    return torch.stack(list(x.diagonal().unbind(-1)))


class _Soft(torch.autograd.Function):
    """Logits (N, N, B, M) -> SoftVCL and SoftICL, by the differences of distributions alone.

    With P = softmax(G / T) and P' its target, the rows of both sum to 1. Over both directions of a
    pair KL adds up to (P - P') (G - G') / T, and its gradient, targets detached, is (P - P') / T.
    A backward pass that is recorded makes the differences functions of G again, P' constant.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        softened = logits / temperature
        target = softened.softmax(-1)
        # (N, N, B, M), pair (i, j) minus pair (j, i): 0 for i = j
        between = target - target.transpose(0, 1)
        # (N, B, M), minus each of the others
        own = _own_pairs(target)
        among = len(own) * own - own.sum(0)
        ctx.save_for_backward(logits, among, between)
        ctx.temperature = temperature
        scale = temperature**2 / logits.shape[2]
        return (among * _own_pairs(softened)).sum() * scale, (between * softened).sum() * scale

    @staticmethod
    def backward(ctx: Any, grad_vcl: Tensor, grad_icl: Tensor) -> tuple[Tensor, None]:
        logits, among, between = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            moved = (logits / ctx.temperature).softmax(-1)
            moved = moved - moved.detach()  # 0, with the derivative of P
            between = between + moved
            among = among + (len(among) - 1) * _own_pairs(moved)
        scale = ctx.temperature / logits.shape[2]
        grad = between * (grad_icl * scale)  # (N, N, B, M)
        for index, own in enumerate(among):
            grad[index, index] = own * (grad_vcl * scale)
        return grad, None


def _without_diagonal(logits: Tensor) -> Tensor:
    """(..., B, B) -> (..., B, B - 1): the rows without the anchor's own column."""
    size = logits.shape[-1]
    shifted = logits.flatten(-2)[..., 1:].unflatten(-1, (size - 1, size + 1))
    return shifted[..., :-1].reshape(*logits.shape[:-1], size - 1)


def mutual_hard(
    logits: Tensor, labels: Tensor, icl_self_positive: bool = False
) -> tuple[Tensor, Tensor]:
    """VCL and ICL (MCL, arXiv 2104.12565, section 3), sums over networks and ordered pairs.

    The mean of a pair is over the anchors that have a positive; a batch without any gives 0.

    Args:
        logits: (N, N, B, B) of :func:`~kdmm.functional.contrast.contrast_logits`.
        labels: (B,).
        icl_self_positive: In ICL, whether the anchor image's own embedding in the other network
            is a positive and stands in the denominator. By default it is neither, as in the
            authors' in-batch code.

    Returns:
        Two scalars. The logits of both sides get gradients.
    """
    networks, batch = logits.shape[1:3]
    within = torch.eye(networks, dtype=torch.bool, device=logits.device)
    candidates = ~torch.eye(batch, dtype=torch.bool, device=logits.device)
    if icl_self_positive:
        candidates = candidates | ~within[:, :, None, None]  # (N, N, B, B)
    positives = same_class(labels) & candidates
    rows = supervised_contrast(logits, positives, candidates)  # (N, N, B)
    # (B, B) or (N, N, B, B) -> () or (N, N), anchors that have a positive
    counted = positives.any(-1).sum(-1).clamp_min(1)
    pairs = rows.sum(-1) / counted  # (N, N)
    return pairs.diagonal().sum(), pairs.masked_fill(within, 0).sum()


def mutual_soft(
    logits: Tensor, temperature: float = 3.0, soft_include_diag: bool = True
) -> tuple[Tensor, Tensor]:
    """SoftVCL and SoftICL (MCL, arXiv 2104.12565, section 3).

    With ``kd(s, t)`` the mean over rows of ``T^2 KL(softmax(t / T) || softmax(s / T))``, ``t``
    detached, sums over ordered pairs i != j of ``kd(G[i, i], G[j, j])`` and of
    ``kd(G[i, j], G[j, i])``.

    Args:
        logits: G (N, N, B, B) of :func:`~kdmm.functional.contrast.contrast_logits`.
        temperature: T, on top of the contrast's own.
        soft_include_diag: Whether the distributions have all B columns, as in the authors' code;
            otherwise the anchor's own column is left out, as in the paper.

    Returns:
        Two scalars. They have derivatives of any order, in all of which ``t`` is constant.
    """
    with full_precision(logits):
        logits = promote(logits)
        if not soft_include_diag:
            logits = _without_diagonal(logits)
        return _Soft.apply(logits, temperature)


def mutual_contrast(
    embeddings: Tensor,
    labels: Tensor,
    tau: float = 0.1,
    temperature: float = 3.0,
    soft_include_diag: bool = True,
    icl_self_positive: bool = False,
) -> MutualContrast:
    """VCL, SoftVCL, ICL and SoftICL of N networks on one batch (MCL, arXiv 2104.12565).

    Sums, not means, over networks and ordered pairs of them, so their scale grows with N. The soft
    targets get no gradient, everything else does. All pairs are one tensor of N * N * B * B
    logits, of which the backward pass keeps a few: 1 MiB each at N = 4, B = 128 in float32.

    Args:
        embeddings: Unit rows (N, B, D).
        labels: Classes (B,), the same images for all networks. An anchor without another image of
            its class has no hard loss and does not count in the mean.
        tau: Temperature of the similarities.
        temperature: Temperature of the soft terms, on top of ``tau``.
        soft_include_diag: See :func:`mutual_soft`.
        icl_self_positive: See :func:`mutual_hard`.

    Returns:
        Four scalars, at least float32 under any autocast. The paper weighs them 0.1, 1, 0.1, 1.

    Raises:
        ValueError: If the embeddings are not (N, B, D), the labels not (B,), or a temperature is
            not positive.
    """
    if labels.shape != embeddings.shape[1:2]:
        raise ShapeError(
            'labels must be one class an image, (B,), of embeddings (N, B, D)',
            'labels',
            labels=labels,
            embeddings=embeddings,
        )
    if not temperature > 0:
        raise ValueError(f'temperature must be positive, got {temperature!r}')
    logits = contrast_logits(embeddings, tau)
    vcl, icl = mutual_hard(logits, labels, icl_self_positive)
    soft_vcl, soft_icl = mutual_soft(logits, temperature, soft_include_diag)
    return MutualContrast(vcl, soft_vcl, icl, soft_icl)
