"""Kullback-Leibler divergences of softened predictions (arXiv 1503.02531, 2011.13256)."""

import torch
from torch import Tensor

from .precision import full_precision, promote


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    tau: float = 1.0,
    dim: int = 1,
    valid: Tensor | None = None,
) -> Tensor:
    """Mean over positions of ``tau^2 KL(softmax(teacher / tau) || softmax(student / tau))``.

    Args:
        student_logits: Logits of any shape.
        teacher_logits: Logits of the same shape; they get no gradient.
        tau: Temperature.
        dim: The class dimension.
        valid: Boolean, the shape of the logits without ``dim``. Positions where it is false count
            neither in the sum nor in the mean's denominator; none at all gives exactly 0.

    Returns:
        A scalar, at least float32 under any autocast.
    """
    with full_precision(student_logits):
        log_s = torch.log_softmax(promote(student_logits) / tau, dim)
        log_t = torch.log_softmax(promote(teacher_logits.detach()) / tau, dim)
        kl = (log_t.exp() * (log_t - log_s)).sum(dim)
        if valid is None:
            return kl.mean() * tau**2
        return (kl * valid).sum() / valid.sum().clamp_min(1) * tau**2


def channel_kl(student: Tensor, teacher: Tensor, tau: float = 4.0) -> Tensor:
    """Channels as distributions over space (CWD, arXiv 2011.13256).

    ``tau^2 KL(softmax over h * w of teacher / tau || that of student / tau)``, mean over the B * C
    channels that are compared. Logit KD with the roles of classes and pixels exchanged.

    Args:
        student: Maps (B, C, h, w).
        teacher: Maps of the same shape; they get no gradient.
        tau: Temperature.

    Returns:
        A scalar, at least float32 under any autocast.
    """
    return kl_divergence(student.flatten(2), teacher.flatten(2), tau, dim=2)
