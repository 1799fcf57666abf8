"""Layer-wise mutual contrastive learning (L-MCL, arXiv 2207.11518) against banks of all images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer_contrast import check_temperatures, check_weights, soft_pairs, stage_rows
from .maps import full_precision, promote
from .mutual import MutualContrast
from .scores import bank_scores


def layer_bank_contrast(
    anchors: Tensor,
    banks: Tensor,
    index: Tensor,
    weights: Tensor,
    stages: Sequence[int],
    tau: float = 0.07,
    temperature: float = 3.0,
    published_bank: bool = False,
    whole: bool | None = None,
) -> MutualContrast:
    """VCL, SoftVCL, ICL and SoftICL of all pairs of stages, against a bank a network.

    With ``R[n, a]`` the scores ``<bank n, row a> / tau`` over the columns [itself, one of its
    class, K of other classes], ``n(a)`` the network of row a, ``W`` the weights and ``kl(s, t)``
    an image's ``T^2 KL(softmax(t / T) || softmax(s / T))``, t detached, sums over a and c of the
    means over images of

    - ``vcl``: ``W[a, c]`` times the contrast of ``R[n(a), a]`` without the first column,
    - ``icl``: ``W[a, c]`` times that of ``R[n(c), a]`` with two positives,
    - ``soft_vcl``: ``W[a, c] kl(R[n(a), a], R[n(c), c])`` without the first column,
    - ``soft_icl``: ``W[a, c] kl(R[n(c), a], R[n(a), c])``.

    Args:
        anchors: Unit rows (A, B, D), those of a network one behind the other.
        banks: Rows (N, n, D) of the N networks, constants.
        index: Bank rows (B, 2 + K) of :func:`~kdmm.functional.negatives.draw_columns`.
        weights: W (A, A, B) or (A, A, 1) of :func:`~kdmm.functional.layer_contrast.pair_weights`:
            symmetric, 0 within a network.
        stages: Numbers of rows of the networks.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.
        published_bank: Take in VCL and SoftVCL one bank for both rows of a pair, the mean over
            that of either network, as the authors' code does with symmetric weights; by its looks
            a slip. By default each row is compared with its own network's bank.
        whole: See :func:`~kdmm.functional.scores.bank_scores`.

    Returns:
        Four scalars, at least float32 under any autocast, differentiable any number of times in
        the anchors and the weights. The paper weighs them 0.01, 1, 0.01, 1.

    Raises:
        ValueError: If the shapes do not fit, or a temperature is not positive.
    """
    check_temperatures(tau, temperature)
    check_weights(weights, anchors, stages)
    if len(banks) != len(stages):
        raise ValueError(f'{len(banks)} banks for {len(stages)} networks')
    networks, images = stage_rows(stages), anchors.shape[1]
    with full_precision(anchors):
        # (A, B, D), (N, n, D), (B, 2 + K) -> (N, A, B, 2 + K)
        scores = bank_scores(promote(anchors) / tau, banks, index, whole)
        weights = weights.to(scores.dtype).expand(-1, -1, images)
        terms = [scores.new_zeros(()) for _ in range(4)]
        for i, own in enumerate(networks):
            for j, other in enumerate(networks):
                if i == j:
                    continue
                weight = weights[own, other]  # (S, Z, B)
                for bank, share in ((i, 0.5), (j, 0.5)) if published_bank else ((i, 1.0),):
                    mine = scores[bank, own, :, 1:]  # (S, B, 1 + K)
                    theirs = scores[bank if published_bank else j, other, :, 1:]
                    terms[0] = terms[0] + share * _hard(mine, weight.sum(1), 1)
                    soft = soft_pairs(mine, theirs, weight, temperature)
                    terms[1] = terms[1] + share * soft
                terms[2] = terms[2] + _hard(scores[j, own], weight.sum(1), 2)
                # (S, B, 2 + K), (Z, B, 2 + K)
                soft = soft_pairs(scores[j, own], scores[i, other], weight, temperature)
                terms[3] = terms[3] + soft
        vcl, soft_vcl, icl, soft_icl = (term / images for term in terms)
        scale = temperature**2
    return MutualContrast(vcl, soft_vcl * scale, icl, soft_icl * scale)


def _hard(logits: Tensor, weight: Tensor, positives: int) -> Tensor:
    """Sum of weighted contrasts, logits (S, B, M) with the positives first, weights (S, B)."""
    found = torch.logsumexp(logits, -1) - logits[..., :positives].mean(-1)  # (S, B)
    return (found * weight).sum()
