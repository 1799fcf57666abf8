"""Which rows of a teacher map enter the queues. Fixed shapes, no wait for the device."""

import torch
from torch import Tensor

from .hash import hash_uint32

_NEVER = 2**63 - 1


def class_pixels(
    labels: Tensor, counts: Tensor, limit: int, step: Tensor, images: Tensor, seed: int
) -> Tensor:
    """Random positions of each class, without replacement.

    Args:
        labels: (B, A) in 0..K, K for pixels that belong to no class.
        counts: (B, K) pixels of each class.
        limit: V, positions per image and class.
        step: Scalar int64.
        images: Global image indices (B,).
        seed: Any integer.

    Returns:
        Positions (B, K, V); the first ``min(count, V)`` of each are meant, the others arbitrary.
    """
    batch, area = labels.shape
    position = torch.arange(area, device=labels.device)
    noise = hash_uint32(step, seed, images[:, None], position)
    order = ((labels << 32) | noise).sort(dim=1, stable=True).indices  # by class, then noise
    start = counts.cumsum(1) - counts
    index = start[..., None] + torch.arange(limit, device=labels.device)
    return order.gather(1, index.clamp_max(area - 1).flatten(1)).view(batch, -1, limit)


def leading_pixels(
    area: int, counts: Tensor, limit: int, step: Tensor, images: Tensor, seed: int
) -> Tensor:
    """As :func:`class_pixels`, but drawn from the first ``count`` raster positions of the map.

    That is what the authors' code does: it permutes ``0 .. count - 1`` and takes the result for
    positions, so a class's queue fills with whatever is at the top of the image.
    """
    classes = torch.arange(counts.shape[1], device=counts.device)
    position = torch.arange(area, device=counts.device)
    noise = hash_uint32(step, seed, images[:, None, None], classes[:, None], position)
    key = ((noise >> 1) << 32) | position  # distinct, so that ties cannot depend on the device
    key = key.masked_fill(position >= counts[..., None], _NEVER)
    chosen = key.topk(min(limit, area), largest=False).indices
    return torch.nn.functional.pad(chosen, (0, limit - chosen.shape[-1]))


def class_means(rows: Tensor, member: Tensor, counts: Tensor) -> Tensor:
    """Mean row of each class: rows (B, A, C), member (B, A, K) -> (B, K, C).

    A matrix product: sums by atomic addition would differ from run to run on a GPU.
    """
    sums = member.to(rows.dtype).transpose(1, 2) @ rows
    return sums / counts.clamp_min(1)[..., None]
