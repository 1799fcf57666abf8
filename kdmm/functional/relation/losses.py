"""The relation losses of CIRKD (arXiv 2204.06986) as kdmm's losses call them.

:mod:`.textbook` shows what is computed. The functions here prepare unit rows, masks and weights,
and choose the form: :mod:`.fused` on CUDA where its kernels serve, else :mod:`.symmetric` for
pixels that are compared with themselves, and :mod:`.streamed` for everything else.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdmm.errors import ShapeError

from ..blocks import rows_per_block
from ..collective import all_gather_cat, gather_with_grad, world_size
from ..maps import full_precision, map_to_rows, normalize_rows, promote
from .fused import agrees, fused_key_kl, fused_pair_kl, precision
from .streamed import KeyPlan, PairPlan, exponent_dtype, key_kl, pair_kl
from .symmetric import self_kl

_MOST_CHANNELS = 1024  # of the kernels


def half_products(x: Tensor) -> bool:
    """True if kernels may round rows made from ``x`` to float16.

    Float16 is finer than bfloat16 for unit rows. Rounding is allowed where the features come in a
    half type or autocast is on. To be asked outside :func:`~kdmm.functional.full_precision`.
    """
    return x.is_cuda and (x.element_size() == 2 or torch.is_autocast_enabled())


def kernels_serve(student: Tensor, teacher: Tensor, half: bool) -> bool:
    """True if the kernels take rows of this type, these channels and this device."""
    if not student.is_cuda or student.dtype != torch.float32:
        return False
    channels = student.shape[1], teacher.shape[1]
    if max(channels) > _MOST_CHANNELS or (not half and precision() == 'ieee'):
        return False
    return agrees(student.device, half, *channels, precision())


def _pool(x: Tensor, size: int) -> Tensor:
    # (B, C, h, w) -> (B, C, ceil(h / size), ceil(w / size))
    return x if size == 1 else F.avg_pool2d(promote(x), size, size, ceil_mode=True)


def _pool_valid(valid: Tensor, size: int) -> Tensor:
    if size == 1:
        return valid
    # (B, h, w) -> (B, ceil(h / size), ceil(w / size)), valid where all pixels of the window are
    return F.max_pool2d((~valid).float()[:, None], size, size, ceil_mode=True)[:, 0] == 0


def _anchor_weight(valid: Tensor | None, pairs: float, anchors: Tensor, area: int) -> Tensor:
    """(M,): 1 / (pairs * number of the image's anchors that count), 0 for the others."""
    if valid is None:
        return anchors.new_full((anchors.shape[0],), 1 / (pairs * area))
    mask = valid.flatten(1).to(anchors.dtype)  # (B, h * w)
    return (mask / (mask.sum(1, keepdim=True).clamp_min(1) * pairs)).flatten()


def pixel_to_pixel_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 0.1,
    pool: int = 1,
    chunk: int | None = None,
    scope: str = 'local',
    valid: Tensor | None = None,
) -> Tensor:
    """Mini-batch pixel-to-pixel distillation (CIRKD, arXiv 2204.06986).

    For every ordered pair of images (i, j), j = i included, each network gives the distribution
    over the pixels of j of ``cos(pixel of i, pixel of j) / tau``; the result is the mean over pairs
    and over the pixels of i of KL(teacher || student). There is no factor ``tau^2``. The channel
    counts may differ.

    The same as :func:`.textbook.pixel_to_pixel_kl`, but no map of pixels by pixels is kept: one
    gradient of the student's size is formed in the forward pass (on CUDA by fused kernels where
    they serve, see :mod:`.fused`). First derivatives only; the textbook form has others. Products
    are PyTorch's float32 products, so its precision settings (TF32 on CUDA, bfloat16 on processors
    with matrix units) hold for them.

    Args:
        student: Features (B, C_s, h, w).
        teacher: Features (B, C_t, h, w); they get no gradient.
        tau: Temperature of the similarities.
        pool: Average both maps over ``pool x pool`` windows first (changes the objective).
        chunk: Rows of similarity map held at once; by default what stays in the processor's
            cache (CUDA: in 256 MiB).
        scope: ``'local'``: pairs of this process's B images, as the authors' code does.
            ``'global'``: anchors of this process against the images of all ranks; the mean over
            ranks, and DDP's mean of the gradients, equal one process on the whole batch. All ranks
            need maps of one shape, and one number of images unless
            :func:`~kdmm.functional.collective.expect_uneven` was called.
        valid: Boolean (B, h, w). Other pixels are neither anchors nor keys, and the mean over the
            pixels of i is over valid ones; an image without any adds 0.

    Returns:
        A scalar in the features' dtype, at least float32.
    """
    if scope not in ('local', 'global'):
        raise ValueError(f"scope must be 'local' or 'global', got {scope!r}")
    half = half_products(student)
    with full_precision(student):
        pooled = (_pool(student, pool), _pool(teacher.detach(), pool))
        area = pooled[0].shape[2] * pooled[0].shape[3]
        # (B, C, h, w) -> (B * h * w, C)
        anchors, teacher_anchors = (map_to_rows(normalize_rows(x)) for x in pooled)
        anchors = anchors.to(exponent_dtype(anchors, tau))
        teacher_anchors = teacher_anchors.to(anchors.dtype)
        valid = None if valid is None else _pool_valid(valid, pool)
        mask = None if valid is None else valid.flatten()  # (B * h * w,)
        gather = scope == 'global' and world_size() > 1
        # (B * h * w, C_t) -> (G * h * w, C_t), G images of all ranks
        teacher_keys = all_gather_cat(teacher_anchors) if gather else teacher_anchors
        images = teacher_keys.shape[0] // area
        plan = PairPlan(
            teacher_anchors,
            teacher_keys,
            # of which W ranks have as many as a rank has on average, B * G if they are alike
            _anchor_weight(valid, images**2 / (world_size() if gather else 1), anchors, area),
            images,
            mask if mask is None or not gather else all_gather_cat(mask.to(torch.uint8)).bool(),
            float(tau),
            chunk,
            torch.is_grad_enabled() and anchors.requires_grad,
            half,
        )
        keys = gather_with_grad(anchors) if gather else None
        if kernels_serve(anchors, teacher_anchors, half):
            loss = fused_pair_kl(anchors, keys, plan)
        elif keys is None:
            loss = self_kl(anchors, plan)
        else:
            rows = rows_per_block(anchors.shape[0], keys.shape[0], anchors, chunk)
            loss = pair_kl(anchors, keys, plan._replace(chunk=rows))
        return loss.to(promote(student).dtype)


def memory_kl(
    student_rows: Tensor,
    teacher_rows: Tensor,
    keys: Tensor,
    tau: float = 0.1,
    temperature: float = 1.0,
    sections: Sequence[int] | None = None,
    key_mask: Tensor | None = None,
    row_weight: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Distillation of the similarities to remembered keys (CIRKD, arXiv 2204.06986).

    Per section of keys X, ``T^2 sum_n w_n KL(p(t_n) || p(s_n))`` with
    ``p(r) = softmax(r X^T / (tau T))``. The same keys serve both networks. First derivatives only;
    :func:`.textbook.memory_kl`, the same with weights 1 / N and no mask, has others.

    Args:
        student_rows: Unit rows (N, C).
        teacher_rows: Unit rows (N, C); no gradient.
        keys: Unit rows (M, C); no gradient.
        tau: Temperature of the similarities.
        temperature: T, which softens the predictions, on top of ``tau``.
        sections: Sizes of the groups of keys, each with its own softmax; by default one group.
        key_mask: Boolean (M,), false for keys that do not count. A section with none gives 0.
        row_weight: Weights w (N,); by default 1 / N.
        chunk: Rows of similarity map held at once; by default what stays in the processor's
            cache (CUDA: in 256 MiB).

    Returns:
        One value a section (S,), at least float32.

    Raises:
        ValueError: If the shapes disagree or the sections do not cover the keys.
    """
    sections = [keys.shape[0]] if sections is None else list(sections)
    if sum(sections) != keys.shape[0] or min(sections, default=0) < 1:
        raise ValueError(f'sections {sections} must be positive and cover {keys.shape[0]} keys')
    if student_rows.shape != teacher_rows.shape or keys.shape[1] != student_rows.shape[1]:
        raise ShapeError(
            'rows of student and teacher (n, C) and keys (m, C) must have the same channels',
            'channels',
            student=student_rows,
            teacher=teacher_rows,
            keys=keys,
        )
    half = half_products(student_rows)
    with full_precision(student_rows):
        student = promote(student_rows)
        student = student.to(exponent_dtype(student, tau * temperature))
        teacher, keys = (x.detach().to(student.dtype) for x in (teacher_rows, keys))
        rows = student.shape[0]
        if row_weight is None:
            row_weight = student.new_full((rows,), 1 / rows)
        need_grad = torch.is_grad_enabled() and student.requires_grad
        block = rows_per_block(rows, keys.shape[0], student, chunk)
        weight = row_weight.to(student.dtype) * temperature**2
        divisor = float(tau * temperature)
        plan = KeyPlan(teacher, keys, weight, sections, key_mask, divisor, block, need_grad, half)
        # (N, C) -> (S,)
        form = fused_key_kl if kernels_serve(student, teacher, half) else key_kl
        return form(student, plan).to(promote(student_rows).dtype)
