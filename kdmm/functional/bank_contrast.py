"""Mutual contrastive learning of a cohort (MCL, arXiv 2104.12565) against banks of all images."""

import torch
from torch import Tensor

from .maps import full_precision, promote
from .mutual import MutualContrast, mutual_soft
from .scores import bank_scores

_NOWHERE = -1e30  # a logit whose probability is 0; finite, so that 0 times it is 0


def own_and_others(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Means over images (N, N, B), summed over networks and over pairs of different ones."""
    pairs = rows.mean(-1)  # (N, N, B) -> (N, N)
    own = pairs.diagonal().sum()
    within = torch.eye(len(pairs), dtype=torch.bool, device=rows.device)
    return own, pairs.masked_fill(within, 0).sum()


def _hard(logits: Tensor, icl_self_positive: bool) -> tuple[Tensor, Tensor]:
    """VCL and ICL of logits (N, N, B, 2 + K), of which the own pairs lack the first column."""
    networks = len(logits)
    positive = logits[..., 1]  # (N, N, B, 2 + K) -> (N, N, B)
    if icl_self_positive:
        within = torch.eye(networks, dtype=torch.bool, device=logits.device)[:, :, None]
        positive = torch.where(within, positive, logits[..., :2].mean(-1))
    else:
        logits = logits[..., 1:]  # (N, N, B, 1 + K)
    return own_and_others(logits.logsumexp(-1) - positive)


def mutual_bank_contrast(
    anchors: Tensor,
    banks: Tensor,
    index: Tensor,
    tau: float = 0.07,
    temperature: float = 3.0,
    icl_self_positive: bool = True,
    whole: bool | None = None,
) -> MutualContrast:
    """VCL, SoftVCL, ICL and SoftICL of N networks with a bank each (MCL, arXiv 2104.12565).

    The form for large data sets. With ``R[i, j]`` the scores ``<bank i, anchor of j> / tau`` over
    the columns [itself, one of its class, K of other classes]: VCL is the contrast of ``R[i, i]``
    without the first column, one positive; ICL that of ``R[i, j]``, i != j, over all columns, two
    positives; SoftVCL and SoftICL are the mean over images of ``T^2 KL`` between ``R[i, i]`` and
    ``R[j, j]``, and between ``R[i, j]`` and ``R[j, i]``, over the same columns, the target
    detached. Sums, not means, over networks and ordered pairs. Only the anchors get gradients.

    The authors' ImageNet code takes bank i for VCL of both networks of a pair, by its looks a slip;
    here every network's own contrast is with its own bank.

    Args:
        anchors: Unit rows (N, B, D).
        banks: Rows (N, n, D) of the N networks, constants.
        index: Bank rows (B, 2 + K) of :func:`~kdmm.functional.negatives.draw_columns`.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.
        icl_self_positive: Whether in the hard ICL an image's own embedding in the other network is
            a positive and stands in the denominator, as in the authors' code; else it is neither.
        whole: See :func:`~kdmm.functional.scores.bank_scores`.

    Returns:
        Four scalars, at least float32 under any autocast. The paper weighs them 0.1, 1, 0.1, 1.

    Raises:
        ValueError: If the shapes do not fit, or a temperature is not positive.
    """
    for name, value in dict(tau=tau, temperature=temperature).items():
        if not value > 0:
            raise ValueError(f'{name} must be positive, got {value!r}')
    if len(anchors) != len(banks):
        raise ValueError(f'{len(banks)} banks for the anchors of {len(anchors)} networks')
    with full_precision(anchors):
        # (N, B, D), (N, n, D), (B, 2 + K) -> (N, N, B, 2 + K)
        logits = bank_scores(promote(anchors) / tau, banks, index, whole)
        within = torch.eye(len(banks), dtype=torch.bool, device=logits.device)[:, :, None, None]
        itself = torch.arange(logits.shape[-1], device=logits.device) == 0
        logits = logits.masked_fill(within & itself, _NOWHERE)
        vcl, icl = _hard(logits, icl_self_positive)
        soft_vcl, soft_icl = mutual_soft(logits, temperature)
    return MutualContrast(vcl, soft_vcl, icl, soft_icl)
