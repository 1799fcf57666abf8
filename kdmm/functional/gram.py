"""Similarities of all pixels of an image (SKD, arXiv 1903.04197), of all channels (NST)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import blocks, refuse_second_order, rows_per_block
from .channel import channel_rows
from .maps import NORM_FLOOR, full_precision, normalize_rows, promote

STREAM_ABOVE = 4096


def windows(x: Tensor, patch: int, scale: float | None) -> tuple[int, int]:
    """Sides of the pooling windows of :func:`pairwise_similarity_mse` for maps (B, C, h, w)."""
    if scale is None:
        return patch, patch
    return max(1, int(x.shape[2] * scale)), max(1, int(x.shape[3] * scale))


def _nodes(x: Tensor, patch: int, scale: float | None, detach_norm: bool) -> Tensor:
    """(B, C, h, w) -> unit columns (B, C, n), one for each window of the max-pooling."""
    sides = windows(x, patch, scale)
    # the pooling keeps an int64 index for each node, so not where it does nothing
    pooled = x if sides == (1, 1) else F.max_pool2d(x, sides, sides, ceil_mode=True)
    nodes = pooled.flatten(2)  # (B, C, h', w') -> (B, C, n)
    if not detach_norm:
        return normalize_rows(nodes)
    nodes = promote(nodes)
    norm = nodes.detach().norm(dim=1, keepdim=True)  # (B, 1, n)
    # a node without a direction gets no gradient rather than one divided by the floor
    return nodes * torch.where(norm > NORM_FLOOR, 1 / (norm + 1e-8), 0)


def _naive(student: Tensor, teacher: Tensor) -> Tensor:
    maps = (x.transpose(1, 2) @ x for x in (student, teacher))  # (B, n, n)
    return torch.sub(*maps).square().mean()


def _by_channels(student: Tensor, teacher: Tensor) -> Tensor:
    # sum (G_s - G_t)^2 = |S S^T|^2 + |T T^T|^2 - 2 |S T^T|^2 with maps of channels by channels
    pairs = ((student, student, 1), (teacher, teacher, 1), (student, teacher, -2))
    # (B, C, n) @ (B, n, C') -> (B, C, C')
    terms = ((x @ y.transpose(1, 2)).double().square().sum() * sign for x, y, sign in pairs)
    total = sum(terms, student.new_zeros((), dtype=torch.float64))
    return (total / (student.shape[0] * student.shape[2] ** 2)).to(student.dtype)


class _Streamed(torch.autograd.Function):
    """Row blocks from the diagonal on: the map is symmetric, and its gradient is ``4 G F``."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, chunk: int, need_grad: bool) -> Tensor:
        batch, _, n = student.shape
        buffer = student.new_empty(chunk * n)
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        grad = torch.zeros_like(student) if need_grad else None
        for b in range(batch):
            for block in blocks(n, chunk):
                rows = block.stop - block.start
                s, t = student[b, :, block.start :], teacher[b, :, block.start :]
                # (r, C) @ (C, m) -> (r, m), m nodes from the block on
                g = buffer[: rows * s.shape[1]].view(rows, -1)
                torch.mm(s[:, :rows].T, s, out=g)
                g.addmm_(t[:, :rows].T, t, alpha=-1)
                # what lies right of the diagonal block stands for its mirror image too
                for part, times in ((g[:, :rows], 1), (g[:, rows:], 2)):
                    total += times * part.norm(dim=1).double().square().sum()
                if grad is not None:
                    # (C, m) @ (m, r) -> (C, r), and (C, r) @ (r, m - r) -> (C, m - r)
                    grad[b, :, block].addmm_(s, g.T)
                    grad[b, :, block.stop :].addmm_(s[:, :rows], g[:, rows:])
        scale = 1 / (batch * n**2)
        if grad is not None:
            ctx.save_for_backward(grad.mul_(4 * scale))
        return (total * scale).to(student.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order('pairwise_similarity_mse', "its form='naive'")
        return grad * ctx.saved_tensors[0], None, None, None


def pairwise_similarity_mse(
    student: Tensor,
    teacher: Tensor,
    patch: int = 2,
    scale: float | None = None,
    detach_norm: bool = False,
    form: str = 'auto',
    chunk: int | None = None,
) -> Tensor:
    """Squared difference of the pixel-pixel cosines within each image (SKD, arXiv 1903.04197).

    Both maps are max-pooled to n nodes (incomplete windows at the border count), then each node is
    scaled to unit length. At most 1 for non-negative features, 4 in general. First derivatives
    only.

    Args:
        student: Features (B, C_s, h, w).
        teacher: Features (B, C_t, h, w); they get no gradient.
        patch: Side of the pooling windows in pixels.
        scale: Side of the windows as a share of the map's, instead of ``patch``; 0.5 leaves 4 to 9
            nodes.
        detach_norm: Take the nodes' lengths, plus 1e-8, as constants in the gradient, as the
            authors' code does. A node shorter than 1e-6 then counts as 0, without gradient.
        form: ``'naive'``: the n x n maps as they are. ``'streamed'``: row blocks, the gradient is
            formed in the forward pass and nothing n x n is kept. ``'gram'``: through maps of
            channels by channels, cheap for many nodes, but nearly equal networks cancel (float32:
            1e-4 relative at a value of 1.6e-3, 1 % at 5.6e-6). ``'auto'``: naive up to 4096 nodes,
            else streamed.
        chunk: Rows of a streamed block; by default what stays in the processor's cache
            (CUDA: what 256 MiB hold).

    Returns:
        The mean over B * n * n, at least float32.

    Raises:
        ValueError: For another form.
    """
    with full_precision(student):
        target = _nodes(teacher.detach(), patch, scale, detach_norm)
        nodes = _nodes(student, patch, scale, detach_norm)
        target, n = target.to(nodes.dtype), nodes.shape[2]
        if form == 'auto':
            form = 'naive' if n <= STREAM_ABOVE else 'streamed'
        if form == 'streamed':
            need_grad = torch.is_grad_enabled() and nodes.requires_grad
            return _Streamed.apply(nodes, target, rows_per_block(n, n, nodes, chunk), need_grad)
        if form not in ('naive', 'gram'):
            raise ValueError(f"form is 'auto', 'naive', 'streamed' or 'gram', not {form!r}")
        return _naive(nodes, target) if form == 'naive' else _by_channels(nodes, target)


def channel_map_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD of the networks' sets of channel maps (NST, arXiv 1707.01219).

    Each channel, over space, is scaled to unit length. With the kernel ``k(a, b) = <a, b>^2`` the
    value is ``mean k(t, t) + mean k(s, s) - 2 mean k(s, t)`` over images and all pairs of channels.
    That is the squared difference of the n x n maps ``sum over channels of a a^T / C``, so it is
    computed from maps of positions by positions, or of channels by channels where the former are
    larger.

    Args:
        student: Features (B, C_s, h, w).
        teacher: Features (B, C_t, h, w); they get no gradient.

    Returns:
        A scalar in [0, 2], at least float32 under any autocast.
    """
    with full_precision(student):
        # (B, C, h, w) -> (B, C, n)
        mine, theirs = (channel_rows(x) / x.shape[1] ** 0.5 for x in (student, teacher.detach()))
        n = mine.shape[2]
        form = _naive if n <= max(mine.shape[1], theirs.shape[1]) else _by_channels
        return form(mine, theirs.to(mine.dtype)) * n**2
