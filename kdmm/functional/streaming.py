"""Row blocks of similarity maps, with the gradient formed in the forward pass.

A loss over the softmax of ``F K^T`` needs no map of its own size in the backward pass: the
derivative with respect to the logits, ``p_student - p_teacher``, is known block by block while the
loss is summed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .precision import refuse_second_order

# logit of a masked key in both networks: equals removal in value and gradient, and stays finite
MASKED = -1e9
_BLOCK_BYTES = {'cpu': 16 * 2**20, 'cuda': 256 * 2**20}


def rows_per_block(rows: int, columns: int, like: Tensor, chunk: int | None = None) -> int:
    """Rows of one block map: ``chunk``, or what 16 MiB (CPU) or 256 MiB (CUDA) hold."""
    if chunk is None:
        budget = _BLOCK_BYTES.get(like.device.type, _BLOCK_BYTES['cpu'])
        chunk = budget // (columns * like.element_size())
    return max(1, min(rows, chunk))


def _blocks(rows: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk))


def _logits(
    rows: Tensor, keys: Tensor, tau: float, mask: Tensor | None, out: Tensor | None = None
) -> Tensor:
    # dividing rows by tau is cheaper than dividing the map
    logits = torch.mm(rows / tau, keys.T, out=out)
    return logits if mask is None else logits.masked_fill_(~mask, MASKED)


def _log_sum_exp(logits: Tensor, p: Tensor) -> Tensor:
    # the largest p is at least 1 / columns, so its logarithm is safe
    return logits.amax(-1) - p.amax(-1).log_()


def _segment_kl(zs: Tensor, zt: Tensor, ps: Tensor, pt: Tensor) -> Tensor:
    """KL(teacher || student) over the last dimension.

    ``zs`` and ``zt`` (n, ..., A) are the logits, ``ps`` and ``pt`` buffers of their shape. On
    return ``ps`` holds ``p_s - p_t``, ``zt`` and ``pt`` are spent.
    """
    torch.softmax(zs, -1, out=ps)
    torch.softmax(zt, -1, out=pt)
    offset = _log_sum_exp(zt, pt) - _log_sum_exp(zs, ps)
    kl = zt.sub_(zs).mul_(pt).sum(-1) - offset
    ps.sub_(pt)
    return kl


class PairPlan(NamedTuple):
    """Constants of :func:`pair_kl`."""

    teacher_anchors: Tensor  # (M, C_t)
    teacher_keys: Tensor  # (N, C_t)
    weight: Tensor  # (M,) of each anchor's sum of divergences
    segments: int  # images among the keys, of N / segments columns each
    key_mask: Tensor | None  # (N,), true for keys that count
    tau: float
    chunk: int
    need_grad: bool


class _PairKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, keys: Tensor | None, plan: PairPlan) -> Tensor:
        columns = anchors if keys is None else keys
        rows, width = anchors.shape[0], columns.shape[0]
        buffers = anchors.new_empty(4, plan.chunk, width)
        total = torch.zeros((), dtype=torch.float64, device=anchors.device)
        d_anchors = torch.zeros_like(anchors) if plan.need_grad else None
        d_keys = torch.zeros_like(keys) if plan.need_grad and keys is not None else d_anchors
        for block in _blocks(rows, plan.chunk):
            zs, zt, ps, pt = buffers[:, : block.stop - block.start]
            student, weight = anchors[block], plan.weight[block, None]
            teacher = plan.teacher_anchors[block]
            _logits(student, columns, plan.tau, plan.key_mask, zs)
            _logits(teacher, plan.teacher_keys, plan.tau, plan.key_mask, zt)
            kl = _segment_kl(*(x.unflatten(1, (plan.segments, -1)) for x in (zs, zt, ps, pt)))
            total += (kl.sum(1).double() * weight[:, 0]).sum()
            if d_anchors is not None and d_keys is not None:
                weight = weight / plan.tau
                d_anchors[block] += (ps @ columns).mul_(weight)
                d_keys.addmm_(ps.T, student * weight)
        ctx.shared = keys is None
        if d_anchors is not None and d_keys is not None:
            ctx.save_for_backward(*((d_anchors,) if keys is None else (d_anchors, d_keys)))
        return total.to(anchors.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order('pixel_to_pixel_kl')
        grads = [grad * saved for saved in ctx.saved_tensors]
        return (grads[0], None if ctx.shared else grads[1], None)


class KeyPlan(NamedTuple):
    """Constants of :func:`key_kl`."""

    teacher: Tensor  # (N, C)
    keys: Tensor  # (M, C)
    weight: Tensor  # (N,) of each row's divergence
    sections: Sequence[int]  # columns of each softmax, M in all
    key_mask: Tensor | None  # (M,), true for keys that count
    tau: float
    chunk: int
    need_grad: bool


class _KeyKL(torch.autograd.Function):
    # all sections share one matrix product; each has a gradient of its own, since each has its own
    # weight in the objective
    @staticmethod
    def forward(ctx: Any, student: Tensor, plan: KeyPlan) -> Tensor:
        sections = list(plan.sections)
        totals = torch.zeros(len(sections), dtype=torch.float64, device=student.device)
        grads = [torch.empty_like(student) for _ in sections] if plan.need_grad else []
        for block in _blocks(student.shape[0], plan.chunk):
            weight = plan.weight[block]
            maps = (
                _logits(x[block], plan.keys, plan.tau, plan.key_mask)
                for x in (student, plan.teacher)
            )
            parts = zip(*(x.split(sections, 1) for x in maps), strict=True)
            for i, (zs, zt) in enumerate(parts):
                zs, zt = zs.contiguous(), zt.contiguous()
                kl = _segment_kl(zs, zt, ps := torch.empty_like(zs), torch.empty_like(zt))
                totals[i] += (kl.double() * weight).sum()
                if grads:
                    keys = plan.keys.split(sections)[i]
                    grads[i][block] = (ps @ keys).mul_(weight[:, None] / plan.tau)
        ctx.save_for_backward(*grads)
        return totals.to(student.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_order('memory_kl')
        parts = [g * saved for g, saved in zip(grad, ctx.saved_tensors, strict=True)]
        return sum(parts[1:], parts[0]), None


def pair_kl(anchors: Tensor, keys: Tensor | None, plan: PairPlan) -> Tensor:
    """Weighted sum over anchors (M, C_s) and key segments of KL(teacher || student).

    ``keys`` (N, C_s), or None where the anchors are the keys: one gradient then serves both roles.
    """
    return _PairKL.apply(anchors, keys, plan)


def key_kl(student: Tensor, plan: KeyPlan) -> Tensor:
    """Weighted sums (S,) over rows (N, C) of KL(teacher || student), one per section of keys."""
    return _KeyKL.apply(student, plan)
