"""The relation losses by blocks of rows, with the gradient formed in the forward pass.

The same as :mod:`.textbook`. Its backward pass needs every map again; this one needs none: the
derivative with respect to the logits ``Z`` is ``softmax(Z_s) - softmax(Z_t)``, known block by
block while the loss is summed, and its product with the keys has the size of the features.

Rows have unit length, so logits lie within ``1 / tau`` and are exponentiated as they are, without
subtracting a maximum. With ``E = exp(Z)``, three sums of a row give its divergence:
``KL = sum E_t (Z_t - Z_s) / sum E_t - log sum E_t + log sum E_s``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..blocks import blocks, empty_blocks, refuse_second_order

# exp(40) summed over a map and multiplied back stays far inside float32, exp(300) in float64
_LARGEST_LOGIT = {torch.float32: 40.0, torch.float64: 300.0}


def exponent_dtype(x: Tensor, tau: float) -> torch.dtype:
    """Choose the type in which similarities of unit rows over ``tau`` are exponentiated.

    Raises:
        ValueError: If ``tau`` is not in [1 / 300, inf).
    """
    if not tau * _LARGEST_LOGIT[torch.float64] >= 1:
        raise ValueError(f'tau (times temperature) must be at least 1/300, got {tau}')
    return x.dtype if tau * _LARGEST_LOGIT[x.dtype] >= 1 else torch.float64


def exponentials(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], buffers: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``E_s``, ``E_t``, ``E_t (Z_t - Z_s)`` (n, m) of one block, in the buffers' memory.

    Args:
        student: Rows (n, C_s) and keys (m, C_s), one of them already divided by tau.
        teacher: The same of the teacher.
        buffers: Three flat buffers of at least n * m elements.
    """
    shape = student[0].shape[0], student[1].shape[0]
    zs, zt, cross = (x[: shape[0] * shape[1]].view(shape) for x in buffers)
    # (n, C) @ (C, m) -> (n, m), for each network
    torch.mm(student[0], student[1].T, out=zs)
    torch.mm(teacher[0], teacher[1].T, out=zt)
    torch.sub(zt, zs, out=cross)
    zs.exp_()
    cross.mul_(zt.exp_())
    return zs, zt, cross


def divergence(sum_s: Tensor, sum_t: Tensor, sum_cross: Tensor) -> Tensor:
    """KL(teacher || student) of rows from their sums of E_s, E_t and E_t (Z_t - Z_s), in float64.

    A row without any key (sums of 0) gives 0.
    """
    sum_s, sum_t, sum_cross = (x.double() for x in (sum_s, sum_t, sum_cross))
    floor = torch.finfo(torch.float64).tiny
    sum_s, sum_t = sum_s.clamp_min(floor), sum_t.clamp_min(floor)
    return sum_cross / sum_t - sum_t.log() + sum_s.log()


def inverse(weight: Tensor, sums: Tensor) -> Tensor:
    """Divide ``weight / sums``; 0 where nothing was summed."""
    return torch.where(sums > 0, weight / sums, 0)


class PairPlan(NamedTuple):
    """Constants of :func:`pair_kl` and :func:`~.symmetric.self_kl`."""

    teacher_anchors: Tensor  # (M, C_t)
    teacher_keys: Tensor  # (N, C_t)
    weight: Tensor  # (M,) of each anchor's sum of divergences
    segments: int  # images among the keys, of N / segments columns each
    key_mask: Tensor | None  # (N,), true for keys that count
    tau: float
    chunk: int | None
    need_grad: bool
    half: bool = False  # fused products may take float16 rows


class _PairKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, keys: Tensor, plan: PairPlan) -> Tensor:
        chunk = plan.chunk or anchors.shape[0]
        buffers = empty_blocks(anchors, chunk, keys.shape[0])
        total = torch.zeros((), dtype=torch.float64, device=anchors.device)
        d_anchors, d_keys = torch.zeros_like(anchors), torch.zeros_like(keys)
        for block in blocks(anchors.shape[0], chunk):
            student, weight = anchors[block], plan.weight[block, None]  # (n, C), (n, 1)
            parts = exponentials(
                (student / plan.tau, keys),
                (plan.teacher_anchors[block] / plan.tau, plan.teacher_keys),
                buffers,
            )
            if plan.key_mask is not None:
                for part in parts:
                    part.mul_(plan.key_mask)
            # (n, N) -> (n, images, A)
            es, et, cross = (x.unflatten(1, (plan.segments, -1)) for x in parts)
            # (n, images, A) -> (n, images)
            sum_s, sum_t, sum_cross = (x.sum(-1) for x in (es, et, cross))
            total += (divergence(sum_s, sum_t, sum_cross) * weight).sum()
            if plan.need_grad:
                weight = weight / plan.tau
                es.mul_(inverse(weight, sum_s)[..., None])
                es.sub_(et.mul_(inverse(weight, sum_t)[..., None]))
                # (n, N) @ (N, C) -> (n, C), and (N, n) @ (n, C) -> (N, C)
                d_anchors[block] = parts[0] @ keys
                d_keys.addmm_(parts[0].T, student)
        if plan.need_grad:
            ctx.save_for_backward(d_anchors, d_keys)
        return total.to(anchors.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_order('pixel_to_pixel_kl', 'relation.textbook.pixel_to_pixel_kl')
        d_anchors, d_keys = ctx.saved_tensors
        return grad * d_anchors, grad * d_keys, None


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
    half: bool = False  # fused products may take float16 rows


class _KeyKL(torch.autograd.Function):
    # all sections share one matrix product; each has a gradient of its own, since each has its own
    # weight in the objective
    @staticmethod
    def forward(ctx: Any, student: Tensor, plan: KeyPlan) -> Tensor:
        sections = list(plan.sections)
        keys = plan.keys.split(sections)
        buffers = empty_blocks(student, plan.chunk, plan.keys.shape[0])
        totals = torch.zeros(len(sections), dtype=torch.float64, device=student.device)
        grads = [torch.empty_like(student) for _ in sections] if plan.need_grad else []
        for block in blocks(student.shape[0], plan.chunk):
            # maps are (keys, rows): aligned whatever the number of keys, sections contiguous
            rows = [x[block] / plan.tau for x in (student, plan.teacher)]
            parts = exponentials((plan.keys, rows[0]), (plan.keys, rows[1]), buffers)
            if plan.key_mask is not None:
                for part in parts:
                    part.mul_(plan.key_mask[:, None])
            weight = plan.weight[block]
            pieces = zip(*(x.split(sections) for x in parts), strict=True)
            for i, (es, et, cross) in enumerate(pieces):
                sum_s, sum_t = es.sum(0), et.sum(0)  # (m, n) -> (n,)
                totals[i] += (divergence(sum_s, sum_t, cross.sum(0)) * weight).sum()
                if grads:
                    es.mul_(inverse(weight / plan.tau, sum_s))
                    es.sub_(et.mul_(inverse(weight / plan.tau, sum_t)))
                    # (n, m) @ (m, C) -> (n, C)
                    torch.mm(es.T, keys[i], out=grads[i][block])
        ctx.save_for_backward(*grads)
        return totals.to(student.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_order('memory_kl', 'relation.textbook.memory_kl')
        parts = [g * saved for g, saved in zip(grad, ctx.saved_tensors, strict=True)]
        return sum(parts[1:], parts[0]), None


def pair_kl(anchors: Tensor, keys: Tensor, plan: PairPlan) -> Tensor:
    """Weighted sum over anchors (M, C_s) and segments of keys (N, C_s) of KL(teacher || student).

    Both get a gradient. For anchors that are the keys :func:`~.symmetric.self_kl` is cheaper.
    """
    return _PairKL.apply(anchors, keys, plan)


def key_kl(student: Tensor, plan: KeyPlan) -> Tensor:
    """Weighted sums (S,) over rows (N, C) of KL(teacher || student), one per section of keys."""
    return _KeyKL.apply(student, plan)
