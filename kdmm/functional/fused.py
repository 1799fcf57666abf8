"""The relation losses on CUDA through Triton: no block of a similarity map in device memory.

The torch forms of :mod:`.streaming` and :mod:`.symmetric` are the oracle and the fallback. Before
the kernels serve a combination of device, type and channels for the first time, both forms are run
on a small random problem; where the kernels do not compile or disagree, a warning says so once and
the torch form is used.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .precision import refuse_second_order
from .streaming import KeyPlan, PairPlan, key_kl, pair_kl
from .symmetric import self_kl

_MOST_CHANNELS = 1024
_LIFT = 2.0**13  # times the largest gradient of a logit, 2: below float16's largest number


def half_products(x: Tensor) -> bool:
    """Whether rows made from ``x`` may be rounded to float16 (finer than bfloat16 for unit rows).

    They may where the features come in a half type or autocast is on. To be asked outside
    :func:`~.precision.full_precision`.
    """
    return x.is_cuda and (x.element_size() == 2 or torch.is_autocast_enabled())


def serves(student: Tensor, teacher: Tensor, half: bool) -> bool:
    """Whether the kernels take rows of this type, these channels and this device."""
    if not student.is_cuda or student.dtype != torch.float32:
        return False
    if max(student.shape[1], teacher.shape[1]) > _MOST_CHANNELS:
        return False
    return _agrees(student.device, half, student.shape[1], teacher.shape[1])


def _wire(x: Tensor, half: bool) -> Tensor:
    return (x.half() if half else x).contiguous()


class _FusedPairKL(torch.autograd.Function):
    """``keys`` is None where the anchors are the keys."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, keys: Tensor | None, plan: PairPlan) -> Tensor:
        from . import kernels

        own = keys is None
        rows, targets = _wire(anchors, plan.half), _wire(plan.teacher_anchors, plan.half)
        student = (rows, rows if keys is None else _wire(keys, plan.half))
        teacher = (targets, targets if own else _wire(plan.teacher_keys, plan.half))
        mask = None if plan.key_mask is None else plan.key_mask.to(torch.uint8)
        *lse, kl = kernels.row_sums(student, teacher, mask, plan.segments, plan.tau)
        loss = (kl.double().sum(1) * plan.weight).sum()
        ctx.own = own
        if plan.need_grad:
            # as large as float16 allows, so that small probabilities do not vanish
            lift = _LIFT / plan.weight.max().clamp_min(torch.finfo(torch.float32).tiny)
            sums = (lse[0], lse[1], (plan.weight * lift).float())
            ctx.save_for_backward(
                *(grad / lift for grad in _pair_gradients(student, teacher, sums, mask, plan, own))
            )
        return loss.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order('pixel_to_pixel_kl')
        grads = [grad * saved for saved in ctx.saved_tensors]
        return grads[0], None if ctx.own else grads[1], None


def _pair_gradients(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    sums: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    plan: PairPlan,
    own: bool,
) -> list[Tensor]:
    from . import kernels

    area = student[1].shape[0] // plan.segments
    images = (student[0].shape[0] // area, plan.segments)
    if own:
        masks = None if mask is None else (mask, mask)
        return [kernels.gradient(student, teacher, sums, sums, masks, images, plan.tau)]
    # anchors that do not count have no weight, so their own mask is all ones
    ones = None if mask is None else torch.ones_like(sums[2], dtype=torch.uint8)
    as_rows = None if mask is None or ones is None else (ones, mask)
    as_keys = None if mask is None or ones is None else (mask, ones)
    swapped = (student[::-1], teacher[::-1])
    return [
        kernels.gradient(student, teacher, sums, None, as_rows, images, plan.tau),
        kernels.gradient(*swapped, None, sums, as_keys, images[::-1], plan.tau),  # type: ignore[arg-type]
    ]


class _FusedKeyKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, plan: KeyPlan) -> Tensor:
        from . import kernels

        losses, grads, start = [], [], 0
        rows, targets = _wire(student, plan.half), _wire(plan.teacher, plan.half)
        lift = _LIFT / plan.weight.max().clamp_min(torch.finfo(torch.float32).tiny)
        for size in plan.sections:
            part = slice(start, start + size)
            keys = _wire(plan.keys[part], plan.half)
            mask = None if plan.key_mask is None else plan.key_mask[part].to(torch.uint8)
            mine, theirs = (rows, keys), (targets, keys)
            *lse, kl = kernels.row_sums(mine, theirs, mask, 1, plan.tau)
            losses.append((kl[:, 0].double() * plan.weight).sum())
            if plan.need_grad:
                sums = (lse[0], lse[1], (plan.weight * lift).float())
                ones = torch.ones_like(sums[2], dtype=torch.uint8)
                masks = None if mask is None else (ones, mask)
                grads.append(
                    kernels.gradient(mine, theirs, sums, None, masks, (1, 1), plan.tau) / lift
                )
            start += size
        ctx.save_for_backward(*grads)
        return torch.stack(losses).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_order('memory_kl')
        parts = [g * saved for g, saved in zip(grad, ctx.saved_tensors, strict=True)]
        return sum(parts[1:], parts[0]), None


def fused_pair_kl(anchors: Tensor, keys: Tensor | None, plan: PairPlan) -> Tensor:
    """:func:`~.symmetric.self_kl` (no keys) or :func:`~.streaming.pair_kl`, by the kernels."""
    return _FusedPairKL.apply(anchors, keys, plan)


def fused_key_kl(student: Tensor, plan: KeyPlan) -> Tensor:
    """:func:`~.streaming.key_kl` by the kernels."""
    return _FusedKeyKL.apply(student, plan)


@cache
def _agrees(device: torch.device, half: bool, student: int, teacher: int) -> bool:
    """Whether the kernels compile and repeat the torch forms on a small problem."""
    if find_spec('triton') is None:
        return False
    try:
        wrong = disagreement(device, half, student, teacher)
    except Exception as error:  # compilers fail in many ways; none may stop a training
        wrong = f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'
    if wrong:
        warnings.warn(f'the fused relation kernels are not used ({wrong})', stacklevel=2)
    return not wrong


@torch.enable_grad()
def disagreement(device: torch.device, half: bool, student: int, teacher: int) -> str:
    """What the kernels get wrong on random rows of these channels; empty if nothing.

    The oracle is the torch form in float64.
    """
    generator = torch.Generator().manual_seed(0)

    def rows(number: int, channels: int) -> Tensor:
        x = torch.randn(number, channels, generator=generator).relu_()
        return torch.nn.functional.normalize(x, eps=1e-6).to(device)

    images, area = 2, 75
    anchors, keys = rows(images * area, student), rows(3 * area, student)
    mask = (torch.rand(3 * area, generator=generator) > 0.2).to(device)
    weight = torch.rand(images * area, generator=generator).to(device) / area
    own = weight * mask[: images * area]
    targets, target_keys = rows(images * area, teacher), rows(3 * area, teacher)
    wide = rows(images * area, student)
    pair = PairPlan(targets, target_keys, weight, 3, mask, 0.1, None, True, half)
    self_plan = PairPlan(targets, targets, own, images, mask[: len(own)], 0.1, None, True, half)
    section = KeyPlan(wide, keys, weight, [area, 2 * area], mask, 0.1, len(anchors), True, half)
    cases: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...]]] = {
        'self': (lambda a, p: fused_pair_kl(a, None, p), self_kl, (anchors, self_plan)),
        'pair': (fused_pair_kl, pair_kl, (anchors, keys, pair)),
        'keys': (fused_key_kl, key_kl, (anchors, section)),
    }
    for name, (ours, oracle, arguments) in cases.items():
        results = [
            _differentiate(form, arguments, exact) for form, exact in ((ours, 0), (oracle, 1))
        ]
        for mine, right in zip(*results, strict=True):
            error = (mine.double() - right).norm() / right.norm()
            if not error < (2e-2 if half else 5e-3):  # half and TF32 round
                return f'{name}: relative error {float(error):.1e}'
    return ''


def _differentiate(
    form: Callable[..., Tensor], arguments: tuple[Any, ...], exact: int
) -> list[Tensor]:
    """Value and gradients of a form; exact: in float64, as the oracle is run."""

    def convert(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            return (x.double() if exact else x).detach()
        return x

    *rows, plan = arguments
    leaves = [convert(x).requires_grad_() for x in rows]
    plan = plan._replace(**{key: convert(value) for key, value in plan._asdict().items()})
    if isinstance(plan, PairPlan) and len(leaves) > 1:
        plan = plan._replace(chunk=len(leaves[0]))
    value = form(*leaves, plan)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]
