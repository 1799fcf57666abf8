"""Label maps at the resolution of features."""

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest: (B, H, W) to (B, h, w), the last two of ``size``; row i from ``floor(i * H / h)``.

    In integers, so that no rounding of a scale factor can move a pixel.
    """
    height, width = labels.shape[-2:]
    rows = torch.arange(size[-2], device=labels.device) * height // size[-2]
    cols = torch.arange(size[-1], device=labels.device) * width // size[-1]
    return labels.index_select(-2, rows).index_select(-1, cols)


def check_labels(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Refuse labels that are neither a class nor ignored. Waits for the device.

    Raises:
        ValueError: Naming the foreign values and the class count.
    """
    foreign = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if not foreign.any():
        return
    values = labels[foreign].unique().tolist()
    raise ValueError(
        f'labels hold the value{"s" if len(values) > 1 else ""} '
        f'{", ".join(map(str, values[:8]))}, but there are {num_classes} classes '
        f'(0 to {num_classes - 1}) and ignore_index is {ignore_index}: correct num_classes, '
        'ignore_index or the label maps'
    )


def valid_labels(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Boolean mask of the labels that are a class and not ignored."""
    return (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
