"""Kullback-Leibler divergences of softened predictions (arXiv 1503.02531 and successors)."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .maps import full_precision, promote


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """``sum of weight * values / sum of weight``; 0 where nothing has a weight."""
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1)


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    dim: int = 1,
    weight: Tensor | None = None,
    detach: bool = True,
    floor: float = 0.0,
) -> Tensor:
    """Mean over positions of ``T^2 KL(softmax(teacher / T) || softmax(student / T))``.

    Args:
        student_logits: Logits of any shape.
        teacher_logits: Logits of the same shape.
        temperature: T.
        dim: The class dimension.
        weight: Of each position, 0 or more or a boolean, the shape of the logits without ``dim``:
            the mean is ``sum of weight * KL / sum of weight``. No weight at all gives exactly 0.
        detach: Give the teacher's logits no gradient. Networks that are mixed into a target may
            need one, see `attended_logits`.
        floor: Added to each of the teacher's probabilities q in ``sum q (log q - log p)``, as some
            public code does; their sum is then more than 1.

    Returns:
        A scalar, at least float32 under any autocast.
    """
    with full_precision(student_logits):
        log_s = torch.log_softmax(promote(student_logits) / temperature, dim)
        teacher = promote(teacher_logits.detach() if detach else teacher_logits)
        log_t = torch.log_softmax(teacher / temperature, dim)
        target = log_t.exp()
        if floor:
            target = target + floor
            log_t = target.log()
        # (B, K, h, w) -> (B, h, w), if dim is 1
        return _mean((target * (log_t - log_s)).sum(dim), weight) * temperature**2


def binary_kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    dim: int = 1,
    weight: Tensor | None = None,
) -> Tensor:
    """Logit distillation for classes that do not exclude each other (arXiv 2308.14286).

    Per class ``T^2 KL(q || p)`` of the two outcomes' distributions, ``q = sigmoid(teacher / T)``
    and ``p = sigmoid(student / T)``; summed over classes, mean over positions. It differs from the
    binary cross entropy with the target q by a constant, and is 0 for equal networks.

    Args:
        student_logits: Logits of any shape.
        teacher_logits: Logits of the same shape; they get no gradient.
        temperature: T.
        dim: The class dimension.
        weight: As in :func:`kl_divergence`.

    Returns:
        A scalar, at least float32 under any autocast.
    """
    with full_precision(student_logits):
        student = promote(student_logits) / temperature
        teacher = promote(teacher_logits.detach()) / temperature
        # both logarithms of each side by themselves: 1 - sigmoid would round to 0
        yes = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
        no = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
        # (B, K, h, w) -> (B, h, w), if dim is 1
        return _mean((yes + no).sum(dim), weight) * temperature**2


def decoupled_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    ignore_index: int = -1,
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of the label's class, and of the others among themselves (DKD).

    arXiv 2203.08679, equation 7. The first part is ``T^2 KL`` of the two outcomes label and not
    label, the second ``T^2 KL`` of softmax over the K - 1 other classes. Of a sample,
    ``KL(p_t || p_s) = first + (1 - p_t(label)) * second``. All is computed from logarithms, so that
    a gap of any size between logits has a finite value and gradient.

    Args:
        student_logits: (B, K), K of 2 or more; the second part of two classes is 0.
        teacher_logits: (B, K); they get no gradient.
        labels: Class of each sample (B,), int64.
        temperature: T.
        ignore_index: Label of samples that do not count.

    Returns:
        Two scalars, means over the samples that count (0 if none does), at least float32 under any
        autocast.
    """
    with full_precision(student_logits):
        counted = labels != ignore_index  # (B,)
        label = torch.where(counted, labels, 0)[:, None]  # (B, 1)
        # the K - 1 classes that are not the label: (K - 1,) and (B, 1) -> (B, K - 1)
        others = torch.arange(student_logits.shape[1] - 1, device=labels.device)
        others = others + (others >= label)
        binary, rest = [], []
        for logits in (student_logits, teacher_logits.detach()):
            scaled = promote(logits) / temperature
            own, apart = scaled.gather(1, label), scaled.gather(1, others)
            both = torch.cat([own, apart.logsumexp(1, keepdim=True)], 1)  # (B, 2)
            binary.append(both.log_softmax(1))
            rest.append(apart.log_softmax(1))
        # (B, 2) -> (B,), and (B, K - 1) -> (B,)
        target, other = ((t.exp() * (t - s)).sum(1) for s, t in (binary, rest))
        scale = temperature**2
        return _mean(target, counted) * scale, _mean(other, counted) * scale


def channel_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Channels as distributions over space (CWD, arXiv 2011.13256).

    ``T^2 KL(softmax over h * w of teacher / T || that of student / T)``, mean over the B * C
    channels that are compared. Logit KD with the roles of classes and pixels exchanged.

    Args:
        student: Maps (B, C, h, w).
        teacher: Maps of the same shape; they get no gradient.
        temperature: T.

    Returns:
        A scalar, at least float32 under any autocast.
    """
    # (B, C, h, w) -> (B, C, h * w)
    return kl_divergence(student.flatten(2), teacher.flatten(2), temperature, dim=2)
