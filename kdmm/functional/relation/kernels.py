"""Triton kernels of the relation losses. Imported on CUDA only, through :mod:`.fused`.

One program owns a block of rows of one segment and walks over blocks of keys; similarity maps live
in registers. Two kernels: the sums of each row, and the gradient, which computes the similarities
again. No atomics, so results are the same from run to run.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

_FAR = tl.constexpr(-1e30)  # logit of what does not count; finite, so that no inf - inf arises


@triton.jit
def _similarities(
    rows_ptr,
    keys_ptr,
    row,
    key,
    row_ok,
    key_ok,
    scale,
    CHANNELS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(BLOCK_M, BLOCK_N): rows times keys, times scale."""
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, CHANNELS, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        inside = channel < CHANNELS
        a = tl.load(
            rows_ptr + row[:, None] * CHANNELS + channel[None, :],
            mask=row_ok[:, None] & inside[None, :],
            other=0.0,
        )
        b = tl.load(
            keys_ptr + key[None, :] * CHANNELS + channel[:, None],
            mask=key_ok[None, :] & inside[:, None],
            other=0.0,
        )
        # (BLOCK_M, BLOCK_C) @ (BLOCK_C, BLOCK_N)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total * scale


@triton.jit
def _sums_kernel(
    s_rows,
    s_keys,
    t_rows,
    t_keys,
    mask_ptr,
    lse_s_ptr,
    lse_t_ptr,
    kl_ptr,
    rows,
    segments,
    area,
    scale,
    C_S: tl.constexpr,
    C_T: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Online log-sum-exps of both networks and KL of each row over one segment of keys."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = row < rows
    segment = tl.program_id(1)
    top_s = tl.full((BLOCK_M,), _FAR, dtype=tl.float32)
    top_t = tl.full((BLOCK_M,), _FAR, dtype=tl.float32)
    sum_s = tl.zeros((BLOCK_M,), dtype=tl.float32)
    sum_t = tl.zeros((BLOCK_M,), dtype=tl.float32)
    cross = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, area, BLOCK_N):
        offset = start + tl.arange(0, BLOCK_N)
        key = segment * area + offset
        key_ok = offset < area
        zs = _similarities(
            s_rows, s_keys, row, key, row_ok, key_ok, scale, C_S, BLOCK_M, BLOCK_N, BLOCK_C,
            PRECISION,
        )  # fmt: skip
        zt = _similarities(
            t_rows, t_keys, row, key, row_ok, key_ok, scale, C_T, BLOCK_M, BLOCK_N, BLOCK_C,
            PRECISION,
        )  # fmt: skip
        counts = key_ok
        if MASKED:
            counts = counts & (tl.load(mask_ptr + key, mask=key_ok, other=0) != 0)
        difference = zt - zs
        zs = tl.where(counts[None, :], zs, _FAR)
        zt = tl.where(counts[None, :], zt, _FAR)
        # (BLOCK_M, BLOCK_N) -> (BLOCK_M,), each row's maximum and sums so far
        new_s = tl.maximum(top_s, tl.max(zs, 1))
        new_t = tl.maximum(top_t, tl.max(zt, 1))
        es = tl.where(counts[None, :], tl.exp(zs - new_s[:, None]), 0.0)
        et = tl.where(counts[None, :], tl.exp(zt - new_t[:, None]), 0.0)
        shrink = tl.exp(top_t - new_t)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(es, 1)
        sum_t = sum_t * shrink + tl.sum(et, 1)
        cross = cross * shrink + tl.sum(et * difference, 1)
        top_s = new_s
        top_t = new_t
    some = sum_t > 0
    lse_s = tl.where(some, top_s + tl.log(tl.where(some, sum_s, 1.0)), 0.0)
    lse_t = tl.where(some, top_t + tl.log(tl.where(some, sum_t, 1.0)), 0.0)
    kl = tl.where(some, cross / tl.where(some, sum_t, 1.0) - lse_t + lse_s, 0.0)
    out = row * segments + segment  # in (M, segments)
    tl.store(lse_s_ptr + out, lse_s, mask=row_ok)
    tl.store(lse_t_ptr + out, lse_t, mask=row_ok)
    tl.store(kl_ptr + out, kl, mask=row_ok)


@triton.jit
def _gradient_kernel(
    s_rows,
    s_keys,
    t_rows,
    t_keys,
    row_mask_ptr,
    key_mask_ptr,
    row_lse_s,
    row_lse_t,
    row_weight,
    key_lse_s,
    key_lse_t,
    key_weight,
    out_ptr,
    area_rows,
    area_keys,
    segments_rows,
    segments_keys,
    scale,
    C_S: tl.constexpr,
    C_T: tl.constexpr,
    MASKED: tl.constexpr,
    AS_ANCHORS: tl.constexpr,
    AS_KEYS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of a block of rows: as anchors of the loss, as its keys, or as both."""
    blocks = tl.cdiv(area_rows, BLOCK_M)
    segment_r = tl.program_id(0) // blocks
    offset_r = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row = segment_r * area_rows + offset_r
    row_ok = offset_r < area_rows
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < C_S
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    row_counts = row_ok
    if MASKED:
        row_counts = row_counts & (tl.load(row_mask_ptr + row, mask=row_ok, other=0) != 0)
    for segment_k in range(0, segments_keys):
        if AS_ANCHORS:
            at = row * segments_keys + segment_k
            r_s = tl.load(row_lse_s + at, mask=row_ok, other=0.0)
            r_t = tl.load(row_lse_t + at, mask=row_ok, other=0.0)
            r_w = tl.load(row_weight + row, mask=row_ok, other=0.0)
        for start in range(0, area_keys, BLOCK_N):
            offset = start + tl.arange(0, BLOCK_N)
            key = segment_k * area_keys + offset
            key_ok = offset < area_keys
            key_counts = key_ok
            if MASKED:
                key_counts = key_counts & (tl.load(key_mask_ptr + key, mask=key_ok, other=0) != 0)
            zs = _similarities(
                s_rows, s_keys, row, key, row_ok, key_ok, scale, C_S, BLOCK_M, BLOCK_N, BLOCK_C,
                PRECISION,
            )  # fmt: skip
            zt = _similarities(
                t_rows, t_keys, row, key, row_ok, key_ok, scale, C_T, BLOCK_M, BLOCK_N, BLOCK_C,
                PRECISION,
            )  # fmt: skip
            # derivative of the loss with respect to the similarities
            d = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
            if AS_ANCHORS:
                both = tl.exp(zs - r_s[:, None]) - tl.exp(zt - r_t[:, None])
                d += tl.where(key_counts[None, :] & row_ok[:, None], both, 0.0) * r_w[:, None]
            if AS_KEYS:
                at = key * segments_rows + segment_r
                k_s = tl.load(key_lse_s + at, mask=key_ok, other=0.0)
                k_t = tl.load(key_lse_t + at, mask=key_ok, other=0.0)
                k_w = tl.load(key_weight + key, mask=key_ok, other=0.0)
                both = tl.exp(zs - k_s[None, :]) - tl.exp(zt - k_t[None, :])
                d += tl.where(row_counts[:, None] & key_ok[None, :], both, 0.0) * k_w[None, :]
            values = tl.load(
                s_keys + key[:, None] * C_S + channel[None, :],
                mask=key_ok[:, None] & inside[None, :],
                other=0.0,
            )
            # (BLOCK_M, BLOCK_N) @ (BLOCK_N, BLOCK_D)
            total = tl.dot(d.to(values.dtype), values, total, input_precision=PRECISION)
    at = row[:, None] * C_S + channel[None, :]
    tl.store(out_ptr + at, total * scale, mask=row_ok[:, None] & inside[None, :])


def _blocks(channels: int, itemsize: int) -> dict[str, int]:
    narrow = itemsize > 2 or channels > 256
    return dict(BLOCK_M=64, BLOCK_N=32 if narrow else 64, BLOCK_C=32 if narrow else 64)


def row_sums(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    mask: Tensor | None,
    segments: int,
    tau: float,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of student and teacher and KL of each row and segment of keys, (M, segments).

    Args:
        student: Rows (M, C_s) and keys (N, C_s), contiguous.
        teacher: Rows (M, C_t) and keys (N, C_t), contiguous.
        mask: (N,), uint8, or None.
        segments: Equal parts of the keys.
        tau: Temperature of the similarities.
        precision: Of float32 products, ``'ieee'`` or ``'tf32'``.
    """
    rows, keys = student[0].shape[0], student[1].shape[0]
    out = [student[0].new_empty(rows, segments, dtype=torch.float32) for _ in range(3)]
    sizes = _blocks(max(student[0].shape[1], teacher[0].shape[1]), student[0].element_size())
    _sums_kernel[(triton.cdiv(rows, sizes['BLOCK_M']), segments)](
        *student,
        *teacher,
        student[0] if mask is None else mask,
        *out,
        rows,
        segments,
        keys // segments,
        1 / tau,
        C_S=student[0].shape[1],
        C_T=teacher[0].shape[1],
        MASKED=mask is not None,
        PRECISION=precision,
        **sizes,
    )
    return out[0], out[1], out[2]


def gradient(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    anchors: tuple[Tensor, Tensor, Tensor] | None,
    keys: tuple[Tensor, Tensor, Tensor] | None,
    masks: tuple[Tensor, Tensor] | None,
    segments: tuple[int, int],
    tau: float,
    precision: str,
) -> Tensor:
    """Gradient (M, C_s), float32, of the weighted sum of divergences with respect to the rows.

    Args:
        student: Rows (M, C_s) and keys (N, C_s), contiguous.
        teacher: Rows (M, C_t) and keys (N, C_t), contiguous.
        anchors: Where the rows are anchors of the loss: log-sum-exps (M, segments[1]) of both
            networks and weights (M,), of a size that float16 can hold if the rows are float16.
        keys: Where the rows are keys of the loss and ``keys`` its anchors: the same of the latter,
            (N, segments[0]) and (N,).
        masks: Of rows (M,) and keys (N,), uint8, or None.
        segments: Equal parts of the rows and of the keys.
        tau: Temperature of the similarities.
        precision: Of float32 products, ``'ieee'`` or ``'tf32'``.
    """
    rows, channels = student[0].shape
    sizes = _blocks(max(channels, teacher[0].shape[1]), student[0].element_size())
    width = min(max(triton.next_power_of_2(channels), 16), 128)
    out = student[0].new_empty(rows, channels, dtype=torch.float32)
    nothing = (out, out, out)
    grid = (
        segments[0] * triton.cdiv(rows // segments[0], sizes['BLOCK_M']),
        triton.cdiv(channels, width),
    )
    _gradient_kernel[grid](
        *student,
        *teacher,
        *(masks or (out, out)),
        *(anchors or nothing),
        *(keys or nothing),
        out,
        rows // segments[0],
        student[1].shape[0] // segments[1],
        *segments,
        1 / tau,
        C_S=channels,
        C_T=teacher[0].shape[1],
        MASKED=masks is not None,
        AS_ANCHORS=anchors is not None,
        AS_KEYS=keys is not None,
        BLOCK_D=width,
        PRECISION=precision,
        **sizes,
    )
    return out
