"""The relation losses on CUDA through Triton: no block of a similarity map in device memory.

The same as :mod:`.textbook`: one kernel finds the log-sum-exps and the divergence of each row, a
second one forms the gradient from them and from similarities that it computes again.

The torch forms of :mod:`.streamed` and :mod:`.symmetric` are the oracle and the fallback. Before
the kernels serve a combination of device, type and channels for the first time, both forms are run
on a small random problem; where the kernels do not compile or disagree, a warning says so once and
the torch form is used.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..blocks import refuse_second_order
from .streamed import KeyPlan, PairPlan, key_kl, pair_kl
from .symmetric import self_kl

_LEAST_WEIGHT = 1e-30  # so that a batch of weight 0 is lifted by a finite number
_LIFT = 2.0**13  # times the largest gradient of a logit, 2: below float16's largest number


def precision() -> str:
    """Precision of float32 products: ``'tf32'`` if PyTorch may round them, else ``'ieee'``.

    In IEEE precision the kernels would run without tensor cores; the torch form's products are
    likely faster then, and it is used.
    """
    return 'ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'


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
        *lse, kl = kernels.row_sums(student, teacher, mask, plan.segments, plan.tau, precision())
        loss = (kl.double().sum(1) * plan.weight).sum()  # (M, images) -> ()
        ctx.own = own
        if plan.need_grad:
            # as large as float16 allows, so that small probabilities do not vanish
            lift = _LIFT / plan.weight.max().clamp_min(_LEAST_WEIGHT)
            sums = (lse[0], lse[1], (plan.weight * lift).float())
            ctx.save_for_backward(
                *(grad / lift for grad in _pair_gradients(student, teacher, sums, mask, plan, own))
            )
        return loss.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order('pixel_to_pixel_kl', 'relation.textbook.pixel_to_pixel_kl')
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
        return [
            kernels.gradient(student, teacher, sums, sums, masks, images, plan.tau, precision())
        ]
    # anchors that do not count have no weight, so their own mask is all ones
    ones = None if mask is None else torch.ones_like(sums[2], dtype=torch.uint8)
    as_rows = None if mask is None or ones is None else (ones, mask)
    as_keys = None if mask is None or ones is None else (mask, ones)
    swapped = (student[::-1], teacher[::-1])
    # gradients of the anchors, (M, C), and of the keys, (N, C)
    return [
        kernels.gradient(student, teacher, sums, None, as_rows, images, plan.tau, precision()),
        kernels.gradient(*swapped, None, sums, as_keys, images[::-1], plan.tau, precision()),  # type: ignore[arg-type]
    ]


class _FusedKeyKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, plan: KeyPlan) -> Tensor:
        from . import kernels

        losses, grads, start = [], [], 0
        rows, targets = _wire(student, plan.half), _wire(plan.teacher, plan.half)
        lift = _LIFT / plan.weight.max().clamp_min(_LEAST_WEIGHT)
        for size in plan.sections:
            part = slice(start, start + size)
            keys = _wire(plan.keys[part], plan.half)  # (M, C) -> (m, C)
            mask = None if plan.key_mask is None else plan.key_mask[part].to(torch.uint8)
            mine, theirs = (rows, keys), (targets, keys)
            *lse, kl = kernels.row_sums(mine, theirs, mask, 1, plan.tau, precision())
            losses.append((kl[:, 0].double() * plan.weight).sum())  # (N, 1) -> ()
            if plan.need_grad:
                sums = (lse[0], lse[1], (plan.weight * lift).float())
                ones = torch.ones_like(sums[2], dtype=torch.uint8)
                masks = None if mask is None else (ones, mask)
                grads.append(
                    kernels.gradient(mine, theirs, sums, None, masks, (1, 1), plan.tau, precision())
                    / lift
                )
            start += size
        ctx.save_for_backward(*grads)
        return torch.stack(losses).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_order('memory_kl', 'relation.textbook.memory_kl')
        parts = [g * saved for g, saved in zip(grad, ctx.saved_tensors, strict=True)]
        return sum(parts[1:], parts[0]), None


def fused_pair_kl(anchors: Tensor, keys: Tensor | None, plan: PairPlan) -> Tensor:
    """:func:`~.symmetric.self_kl` (no keys) or :func:`~.streamed.pair_kl`, by the kernels."""
    with torch.cuda.device_of(anchors):  # Triton launches on the current device
        return _FusedPairKL.apply(anchors, keys, plan)


def fused_key_kl(student: Tensor, plan: KeyPlan) -> Tensor:
    """:func:`~.streamed.key_kl` by the kernels."""
    with torch.cuda.device_of(student):
        return _FusedKeyKL.apply(student, plan)


@cache
def agrees(device: torch.device, half: bool, student: int, teacher: int, products: str) -> bool:
    """True if the kernels compile and repeat the torch forms on a small problem."""
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
    """Say where the kernels differ on random rows of these channels; empty if nowhere.

    The oracle is the torch form in float64.
    """
    bound = 2e-2 if half else 5e-3  # float16 and TF32 round
    for name, ours, oracle, arguments in _problems(device, half, student, teacher):
        results = [_differentiate(ours, arguments), _differentiate(oracle, arguments, exact=True)]
        for mine, right in zip(*results, strict=True):
            error, size = (mine.double() - right).norm(), right.norm()
            if not error <= bound * size:  # also where it is no number
                return f'{name}: error {float(error):.1e} of {float(size):.1e}'
    return ''


Problem = tuple[str, Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...]]


def _problems(device: torch.device, half: bool, student: int, teacher: int) -> Iterator[Problem]:
    """Masked and not, odd sizes and even ones, one image and several, no weight at all."""
    generator = torch.Generator().manual_seed(0)

    def rows(number: int, channels: int) -> Tensor:
        x = torch.randn(number, channels, generator=generator).relu_()
        return torch.nn.functional.normalize(x, eps=1e-6).to(device)

    for images, area, masked, scale in ((2, 75, True, 1), (1, 64, False, 1), (2, 16, True, 0)):
        count = images * area
        anchors, targets = rows(count, student), rows(count, teacher)
        keys, target_keys = rows(3 * area, student), rows(3 * area, teacher)
        mask = (torch.rand(3 * area, generator=generator) > 0.2).to(device) if masked else None
        own = None if mask is None else mask[:count]
        weight = torch.rand(count, generator=generator).to(device) * (scale / area)
        pair = PairPlan(targets, target_keys, weight, 3, mask, 0.1, None, True, half)
        alone = pair._replace(
            teacher_keys=targets,
            weight=weight if own is None else weight * own,
            segments=images,
            key_mask=own,
        )
        wide = rows(count, student)
        section = KeyPlan(wide, keys, weight, [area, 2 * area], mask, 0.1, count, True, half)
        yield 'self', partial(_alone, fused_pair_kl), self_kl, (anchors, alone)
        yield 'pair', fused_pair_kl, pair_kl, (anchors, keys, pair)
        yield 'keys', fused_key_kl, key_kl, (anchors, section)


def _alone(form: Callable[..., Tensor], anchors: Tensor, plan: PairPlan) -> Tensor:
    return form(anchors, None, plan)


def _differentiate(
    form: Callable[..., Tensor], arguments: tuple[Any, ...], exact: bool = False
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
