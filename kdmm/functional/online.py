"""Predictions that the branches of one network teach each other (ONE, OKDDip)."""

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from .maps import full_precision, promote


def gated_logits(logits: Tensor, gate: Tensor) -> Tensor:
    """Mix the logits of M branches, ``sum over m of softmax(gate)_m z_m`` (ONE, arXiv 1806.04606).

    Args:
        logits: (M, B, C).
        gate: A number for each image and branch (B, M).

    Returns:
        (B, C), at least float32 under any autocast.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if logits.ndim != 3 or gate.shape != (logits.shape[1], logits.shape[0]):
        raise ShapeError(
            'logits must be (M, B, C), and the gate (B, M)', 'form', logits=logits, gate=gate
        )
    with full_precision(logits):
        shares = promote(gate).softmax(1)
        # (B, M), (M, B, C) -> (B, C)
        return torch.einsum('bm,mbc->bc', shares, promote(logits).to(shares.dtype))


def attended_logits(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Mix the logits of M peers anew for each of them (OKDDip, arXiv 1912.00350).

    ``target_m = sum over n of A_mn z_n`` with ``A_m = softmax over n of <query_m, key_n>``, of one
    image each; a peer attends to itself, too. Nothing is detached.

    Args:
        logits: (M, B, C).
        queries: (M, B, E).
        keys: (M, B, E).

    Returns:
        The peers' targets (M, B, C), at least float32 under any autocast.

    Raises:
        ValueError: If the shapes do not fit.
    """
    same = queries.shape == keys.shape and queries.shape[:2] == logits.shape[:2]
    if not same or (logits.ndim, queries.ndim) != (3, 3):
        raise ShapeError(
            'logits must be (M, B, C), queries and keys (M, B, E)', 'form',
            logits=logits, queries=queries, keys=keys,
        )  # fmt: skip
    with full_precision(queries):
        # (M, B, E), (M, B, E) -> (B, M, M)
        energy = torch.einsum('mbe,nbe->bmn', promote(queries), promote(keys))
        shares = energy.softmax(2)
        # (B, M, M), (M, B, C) -> (M, B, C)
        return torch.einsum('bmn,nbc->mbc', shares, promote(logits).to(shares.dtype))
