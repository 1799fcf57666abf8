"""Independent double-precision forms of CIRKD's terms: plain loops, autograd, no shared code."""

import torch
from torch import Tensor


def gen(shape: tuple[int, ...], phi: float) -> Tensor:
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.sin(0.7 * k + phi) + 0.5 * torch.sin(0.013 * k**2 + 2 * phi)).reshape(shape)


def gen_plus(shape: tuple[int, ...], phi: float) -> Tensor:
    return gen(shape, phi).clamp_min(0)


def lab(batch: int, height: int, width: int, classes: int) -> Tensor:
    out = torch.empty(batch, height, width, dtype=torch.long)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                ignored = (i + j + b) % 11 == 0
                out[b, i, j] = 255 if ignored else ((3 * i + 5 * j + 7 * b) // 8) % classes
    return out


def unit(x: Tensor, dim: int = 1) -> Tensor:
    return x / x.pow(2).sum(dim, keepdim=True).sqrt()


def naive_p2p(
    student: Tensor, teacher: Tensor, tau: float = 0.1, valid: Tensor | None = None
) -> Tensor:
    """Mean over ordered pairs of images of the mean row divergence; (B, C, h, w) maps."""
    batch = student.shape[0]
    keep = torch.ones_like(student[:, 0], dtype=torch.bool) if valid is None else valid
    total = student.new_zeros(())
    for i in range(batch):
        for j in range(batch):
            if not keep[i].any() or not keep[j].any():
                continue
            logs = []
            for x in (student, teacher):
                anchors, keys = unit(x[i], 0)[:, keep[i]].T, unit(x[j], 0)[:, keep[j]].T
                logs.append(torch.log_softmax(anchors @ keys.T / tau, dim=1))
            log_s, log_t = logs[0], logs[1].detach()
            total = total + (log_t.exp() * (log_t - log_s)).sum(1).mean()
    return total / batch**2


def naive_memory(
    student: Tensor, teacher: Tensor, keys: Tensor, labels: Tensor, tau: float, temperature: float
) -> Tensor:
    """One section of keys; (B, C, h, w) maps, (B, h, w) labels with 255 ignored."""
    rows = []
    for b in range(student.shape[0]):
        for i in range(student.shape[2]):
            for j in range(student.shape[3]):
                if labels[b, i, j] == 255:
                    continue
                s, t = (unit(x[b, :, i, j], 0) for x in (student, teacher))
                log_s = torch.log_softmax(keys @ s / tau / temperature, 0)
                log_t = torch.log_softmax(keys @ t / tau / temperature, 0).detach()
                rows.append((log_t.exp() * (log_t - log_s)).sum())
    return temperature**2 * torch.stack(rows).mean()


def value_and_grad(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss, leaves))
