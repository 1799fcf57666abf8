"""Mutual contrastive learning on MoCo (MCL, arXiv 2104.12565; MoCo, arXiv 1911.05722)."""

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from .bank_contrast import own_and_others
from .maps import full_precision, promote
from .mutual import MutualContrast, mutual_soft


def queue_logits(queries: Tensor, keys: Tensor, queues: Tensor, tau: float = 0.07) -> Tensor:
    """``[<q_i, k_j>, <q_i, queue_j>] / tau`` for all ordered pairs.

    Args:
        queries: Unit rows (N, B, D).
        keys: Unit rows (N, B, D) of the same images.
        queues: Unit rows (N, M, D).
        tau: Temperature of the similarities.

    Returns:
        (N, N, B, 1 + M), at least float32 under any autocast. Only the queries get gradients.

    Raises:
        ValueError: If the shapes do not fit, or ``tau`` is not positive.
    """
    if (
        queries.ndim != 3
        or keys.shape != queries.shape
        or queues.ndim != 3
        or queues[:, 0].shape != queries[:, 0].shape
    ):
        raise ShapeError(
            'queries and keys must be (N, B, D) and queues (N, M, D)',
            'form',
            queries=queries,
            keys=keys,
            queues=queues,
        )
    if not tau > 0:
        raise ValueError(f'tau must be positive, got {tau!r}')
    with full_precision(queries):
        queries, keys, queues = (promote(x) for x in (queries, keys.detach(), queues.detach()))
        queries = queries / tau
        positive = (queries[:, None] * keys).sum(-1, keepdim=True)  # (N, N, B, 1)
        others = queries.flatten(0, 1) @ queues.flatten(0, 1).T  # (N * B, N * M)
        # (N * B, N * M) -> (N, B, N, M) -> (N, N, B, M)
        others = others.view(*queries.shape[:2], *queues.shape[:2]).transpose(1, 2)
        return torch.cat([positive, others], -1)


def mutual_queue_contrast(
    queries: Tensor,
    keys: Tensor,
    queues: Tensor,
    tau: float = 0.07,
    temperature: float = 3.0,
) -> MutualContrast:
    """The four terms of MCL for N query encoders, each with a queue (arXiv 2104.12565).

    With ``L[i, j]`` of :func:`queue_logits`: VCL is the cross entropy of ``L[i, i]`` with column 0,
    ICL that of ``L[i, j]``, i != j; SoftVCL and SoftICL the mean over images of ``T^2 KL`` between
    ``L[i, i]`` and ``L[j, j]``, and between ``L[i, j]`` and ``L[j, i]``, the target detached. Sums,
    not means, over networks and ordered pairs.

    Args:
        queries: Unit rows (N, B, D); only they get gradients.
        keys: Unit rows (N, B, D) of the momentum encoders on another view of the images.
        queues: Unit rows (N, M, D), before these keys entered. They must not be written before
            the backward pass, which autograd refuses.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.

    Returns:
        Four scalars, at least float32 under any autocast. The authors' weights are all 1.

    Raises:
        ValueError: If the shapes do not fit, or a temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f'temperature must be positive, got {temperature!r}')
    logits = queue_logits(queries, keys, queues, tau)
    with full_precision(logits):
        # (N, N, B, 1 + M) -> (N, N, B)
        vcl, icl = own_and_others(logits.logsumexp(-1) - logits[..., 0])
        soft_vcl, soft_icl = mutual_soft(logits, temperature)
    return MutualContrast(vcl, soft_vcl, icl, soft_icl)
