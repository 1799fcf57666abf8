"""Noise-contrastive estimation of one positive and K negatives (CRD, arXiv 1910.10699)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kdmm.errors import ShapeError

from .collective import all_gather_cat
from .maps import full_precision, promote
from .scores import bank_scores


def log_partition(scores: Tensor, samples: int) -> Tensor:
    """Estimate ``log Z``, with Z the mean of ``exp(scores)`` over a batch, times ``samples``.

    The batch is that of all ranks, so that each rank gets the number that one process would.

    Args:
        scores: Similarities divided by their temperature, (..., B, 1 + K).
        samples: n, the rows of the bank that was scored.

    Returns:
        One number for each leading index (...), at least float32, without a gradient.

    Raises:
        ValueError: As :func:`noise_contrast`.
    """
    _check(scores, samples)
    with full_precision(scores):
        scores = promote(scores.detach())
        own = scores.logsumexp((-2, -1))  # (..., B, 1 + K) -> (...)
        count = torch.full_like(own, math.log(scores.shape[-2] * scores.shape[-1]))
        # two rows of (...) a rank -> (W, 2, ...) -> (2, ...)
        total, entries = all_gather_cat(torch.stack([own, count])[None]).logsumexp(0)
        return total - entries + math.log(samples)


def noise_contrast(scores: Tensor, log_z: Tensor, samples: int, eps: float | None = None) -> Tensor:
    """Classify each column as data or noise (NCE; CRD, arXiv 1910.10699).

    With ``P = exp(scores) / Z`` and noise that is uniform over n samples and K times as frequent as
    data, a column is data with probability ``P / (P + K / n)``. The loss is the negative logarithm
    of that for the first column, and of its complement for the K others: their sum, then the
    mean over images.

    Args:
        scores: Similarities divided by their temperature, (..., B, 1 + K), the positive first.
        log_z: ``log Z``, a constant, one number for each leading index (...) or for all, see
            :func:`log_partition`.
        samples: n, the rows of the bank that was scored.
        eps: None for the exact form, which is a softplus of logits. A number, in the authors' code
            1e-7, for their form: it is added to both denominators ``P + K / n``.

    Returns:
        (...), at least float32 under any autocast. Only the scores get a gradient.

    Raises:
        ValueError: If there is no negative, or ``samples`` is less than 1.
    """
    _check(scores, samples)
    noise = math.log((scores.shape[-1] - 1) / samples)  # log(K / n)
    with full_precision(scores):
        # (..., B, 1 + K) - (..., 1, 1)
        logits = promote(scores) - promote(log_z.detach())[..., None, None]
        if eps is None:
            logits = logits - noise
            positive, negatives = softplus(-logits[..., 0]), softplus(logits[..., 1:])
        else:
            data, rate = logits.exp(), math.exp(noise)
            total = data + rate + eps
            positive = -(data[..., 0] / total[..., 0]).log()
            negatives = -(rate / total[..., 1:]).log()
        return (positive + negatives.sum(-1)).mean(-1)  # (..., B) -> (...)


def mutual_noise_contrast(
    anchors: Tensor,
    banks: Tensor,
    index: Tensor,
    tau: float = 0.1,
    eps: float | None = None,
    whole: bool | None = None,
) -> Tensor:
    """NCE of each network's anchors in each other network's bank (MCL-OKD, arXiv 2006.04093).

    Each pair has a Z of its own, of this batch. No bank is held against its own network.

    Args:
        anchors: Unit rows (N, B, D).
        banks: Rows (N, n, D) of the networks in the same order, constants.
        index: Rows drawn for each image (B, 1 + K), the positive first; the same for all pairs.
        tau: Temperature of the similarities.
        eps: See :func:`noise_contrast`.
        whole: See :func:`~kdmm.functional.scores.bank_scores`.

    Returns:
        (N, N - 1), at least float32 under any autocast: row i has bank i, and the others' anchors
        in their order.

    Raises:
        ValueError: If the shapes do not fit, or ``tau`` is not positive.
    """
    if len(anchors) != len(banks) or len(banks) < 2:
        raise ShapeError(
            'two networks or more, with a bank each, are scored', 'form',
            anchors=anchors, banks=banks,
        )  # fmt: skip
    if not tau > 0:
        raise ValueError(f'tau must be positive, got {tau!r}')
    with full_precision(anchors):
        anchors = promote(anchors) / tau
    scores = []
    for place, bank in enumerate(banks):
        others = torch.cat([anchors[:place], anchors[place + 1 :]])
        # (N - 1, B, D), (1, n, D), (B, 1 + K) -> (1, N - 1, B, 1 + K)
        scores.append(bank_scores(others, bank[None], index, whole))
    every, samples = torch.cat(scores), banks.shape[1]
    return noise_contrast(every, log_partition(every, samples), samples, eps)


def _check(scores: Tensor, samples: int) -> None:
    if scores.ndim < 2 or scores.shape[-1] < 2:
        raise ShapeError(
            'scores must be (..., B, 1 + K) with at least one negative', 'form', scores=scores
        )
    if samples < 1:
        raise ValueError(f'samples must be at least 1, got {samples}')
