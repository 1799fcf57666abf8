"""CIRKD's relation losses as the paper writes them (arXiv 2204.06986): what all forms compute.

Autograd keeps every similarity map, 64 MiB for each network and pair of images of 64 x 64 pixels.
The functions of the same names in :mod:`.losses` give the same numbers without such maps, and take
masks and weights, too. They have first derivatives only; the functions here have derivatives of any
order. One thing differs: rows shorter than 1e-6 get no gradient there, and a huge one here.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)), mean over the rows of logits (N, M)."""
    log_s, p_t = F.log_softmax(student, dim=1), F.softmax(teacher.detach(), dim=1)
    return F.kl_div(log_s, p_t, reduction='batchmean')


def pixel_to_pixel_kl(student: Tensor, teacher: Tensor, tau: float = 0.1) -> Tensor:
    """Relations of pixels within and across images, (B, C_s, h, w) and (B, C_t, h, w) -> ()."""
    batch = student.shape[0]
    # (B, C, h, w) -> (B, h * w, C), a unit row for each pixel
    s, t = (F.normalize(x, eps=1e-6).flatten(2).transpose(1, 2) for x in (student, teacher))
    total = student.new_zeros(())
    for i in range(batch):
        for j in range(batch):
            # (h * w, C) @ (C, h * w): pixels of image i against pixels of image j
            total = total + mean_kl(s[i] @ s[j].T / tau, t[i] @ t[j].T / tau)
    return total / batch**2


def memory_kl(
    student_rows: Tensor,
    teacher_rows: Tensor,
    keys: Tensor,
    tau: float = 0.1,
    temperature: float = 1.0,
    sections: Sequence[int] | None = None,
) -> Tensor:
    """Relations of unit rows (N, C) to unit keys (M, C), a softmax for each section -> (S,)."""
    losses = []
    for part in keys.detach().split(list(sections or [len(keys)])):
        # (N, C) @ (C, m): rows against the keys of one section
        s, t = (x @ part.T / (tau * temperature) for x in (student_rows, teacher_rows))
        losses.append(mean_kl(s, t) * temperature**2)
    return torch.stack(losses)
