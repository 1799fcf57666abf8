"""Relations of channels: the additions of CIRKDv2 (the authors' technical report of 2025)."""

import torch.nn.functional as F
from torch import Tensor

from .maps import full_precision, normalize_rows, promote
from .relation import pixel_to_pixel_kl


def pool_ceil(x: Tensor, size: int) -> Tensor:
    """Average pooling (B, C, h, w) -> (B, C, ceil(h / size), ceil(w / size)) in at least float32.

    Incomplete windows at the border count.
    """
    with full_precision(x):
        return F.avg_pool2d(promote(x), size, size, ceil_mode=True)


def channel_rows(x: Tensor) -> Tensor:
    """Each channel as a unit vector over space: (B, C, h, w) -> (B, C, h * w), at least float32."""
    return normalize_rows(x.flatten(2), dim=2)


def channel_relation_kl(
    student: Tensor, teacher: Tensor, tau: float = 0.1, chunk: int | None = None
) -> Tensor:
    """Channel-to-channel relations within and across the images of a batch (CIRKDv2).

    For every ordered pair of images (i, j), j = i included, each network gives for every channel of
    i the distribution over the channels of j of ``cos / tau``, with cosines over space; the result
    is the mean over pairs and channels of KL(teacher || student). That is
    :func:`pixel_to_pixel_kl` with the roles of channels and pixels exchanged. First derivatives
    only.

    Args:
        student: Channels over space (B, C, a); their lengths do not matter.
        teacher: Likewise, (B, C, a); no gradient.
        tau: Temperature of the similarities.
        chunk: Rows of similarity map held at once; by default automatic.

    Returns:
        A scalar, at least float32.
    """
    mine, theirs = (x.transpose(1, 2)[..., None] for x in (student, teacher))  # (B, a, C, 1)
    return pixel_to_pixel_kl(mine, theirs, tau, chunk=chunk)


def channel_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over B * C * a of (student - teacher)^2 of unit channels (B, C, a) (CIRKDv2).

    The teacher gets no gradient.
    """
    with full_precision(student):
        return F.mse_loss(promote(student), promote(teacher.detach()))
