"""Images of other classes, drawn uniformly without a table for each class (arXiv 1910.10699)."""

from typing import NamedTuple

import torch
from torch import Tensor


class ClassIndex(NamedTuple):
    """Index of the images of each class, O(n) numbers for n images of C classes.

    Attributes:
        order: Images sorted by class (n,).
        size: Images of each class (C,).
        start: Place in ``order`` of the first of each class (C,).
    """

    order: Tensor
    size: Tensor
    start: Tensor


def index_classes(labels: Tensor) -> ClassIndex:
    """The index of images with classes ``labels`` (n,), whole numbers from 0 on.

    Raises:
        ValueError: If there are no labels, or 2^31 and more, or one is negative; if all images are
            of one class, which leaves none of another to draw.
    """
    if labels.ndim != 1 or not 0 < len(labels) < 2**31 or labels.min() < 0:
        raise ValueError(
            f'labels must be (n,), 0 < n < 2^31, and none negative, got shape {tuple(labels.shape)}'
        )
    size = torch.bincount(labels)
    if size.max() == len(labels):
        raise ValueError(
            f'all {len(labels)} images are of class {int(labels[0])}: there is none of another '
            'class to draw'
        )
    return ClassIndex(labels.argsort(stable=True), size, size.cumsum(0) - size)


def draw_others(classes: ClassIndex, labels: Tensor, noise: Tensor) -> Tensor:
    """Images of other classes than ``labels``, with replacement (CRD, arXiv 1910.10699).

    Whole numbers throughout: of m images to choose from each has ``2^32 / m`` values of the noise,
    give or take one.

    Args:
        classes: Of :func:`index_classes`, on the device of the others.
        labels: Class (B,) to avoid, each with at least one image.
        noise: Uniform whole numbers (B, K) in [0, 2^32), int64.

    Returns:
        Images (B, K).
    """
    size, start = classes.size[labels, None], classes.start[labels, None]  # (B, 1) each
    place = (noise * (len(classes.order) - size)) >> 32
    return classes.order[place + size * (place >= start)]  # jumps over the own class


def draw_own(classes: ClassIndex, labels: Tensor, noise: Tensor) -> Tensor:
    """Images (B, K) of the classes ``labels`` (B,), drawn as by :func:`draw_others`."""
    size, start = classes.size[labels, None], classes.start[labels, None]
    return classes.order[start + ((noise * size) >> 32)]


def draw_columns(classes: ClassIndex, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """For each image itself, one of its class (maybe itself), and others' (MCL, arXiv 2104.12565).

    Args:
        classes: Of :func:`index_classes`.
        images: (B,).
        labels: Their classes (B,).
        noise: As in :func:`draw_others`, (B, 1 + K).

    Returns:
        Images (B, 2 + K).
    """
    # (B, 1), (B, 1), (B, K) -> (B, 2 + K)
    positive = draw_own(classes, labels, noise[:, :1])
    return torch.cat([images[:, None], positive, draw_others(classes, labels, noise[:, 1:])], 1)
