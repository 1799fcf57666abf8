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


class ShareIndex(NamedTuple):
    """A fixed random share of the other-class images of each class, O(n) numbers.

    Images lie in one random order. Without those of a class, the order is a circle of the other
    images, of which that class has an arc: a random subset, and a different one for each class.

    Attributes:
        order: Images in random order (n,).
        label: Their classes (n,).
        gaps: Ascending (n,), grouped by class: ``class * (n + 1)`` and the number of other-class
            images before each image of the class.
        size: Images of each class (C,).
        start: Place in ``gaps`` of the first of each class (C,).
        first: Where the arc of each class begins, among its other-class images (C,).
        members: Images in it (C,).
    """

    order: Tensor
    label: Tensor
    gaps: Tensor
    size: Tensor
    start: Tensor
    first: Tensor
    members: Tensor


def index_shares(labels: Tensor, share: float, seed: int = 0) -> ShareIndex:
    """Draw a share of the other-class images for each class, ``floor`` of it and at least one.

    Args:
        labels: Classes (n,) as in :func:`index_classes`, on the CPU.
        share: In (0, 1].
        seed: Of the draw.

    Raises:
        ValueError: As :func:`index_classes`.
    """
    classes, total = index_classes(labels), len(labels)
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=random)
    others = total - classes.size  # (C,)
    first = (torch.randint(2**32, others.shape, generator=random) * others) >> 32
    label = labels[order]
    place = label.argsort(stable=True)  # (n,), by class, then by place
    owner = label[place]
    before = place - (torch.arange(total) - classes.start[owner])
    return ShareIndex(
        order,
        label,
        owner * (total + 1) + before,
        classes.size,
        classes.start,
        first,
        (others.double() * share).long().clamp_min(1),
    )


def draw_share(shares: ShareIndex, labels: Tensor, noise: Tensor) -> Tensor:
    """Images (B, K) of the shares of the classes ``labels``, drawn as by :func:`draw_others`."""
    total, labels = len(shares.order), labels[:, None]  # (B,) -> (B, 1)
    # (B, K) below the class's count -> places on the circle of its other-class images
    place = shares.first[labels] + ((noise * shares.members[labels]) >> 32)
    place = place.remainder(total - shares.size[labels])
    own = torch.searchsorted(shares.gaps, labels * (total + 1) + place, right=True)
    return shares.order[place + own - shares.start[labels]]  # jumps over the class's images


def draw_distinct(
    classes: ClassIndex | ShareIndex, labels: Tensor, noise: Tensor, count: int
) -> Tensor:
    """Different images of other classes, as :func:`draw_others` without replacement.

    Every set of ``count`` images is equally likely. There must be as many, which is not checked.

    Args:
        classes: Of :func:`index_classes`, or of :func:`index_shares`.
        labels: Class (B,) to avoid.
        noise: Uniform whole numbers (B, n) in [0, 2^32), int64, one for each image of the set. It
            is the largest tensor here; the rows may be drawn in parts.
        count: K.

    Returns:
        Images (B, K), in no particular order.
    """
    keys = noise.masked_fill(~_allowed(classes, labels), 2**32)
    # the K smallest of (B, n) -> (B, K)
    return classes.order[keys.topk(count, dim=1, largest=False, sorted=False).indices]


def _allowed(classes: ClassIndex | ShareIndex, labels: Tensor) -> Tensor:
    """Tell which places of ``classes.order`` may be drawn, (B,) -> (B, n)."""
    labels = labels[:, None]
    if isinstance(classes, ClassIndex):
        place = torch.arange(len(classes.order), device=labels.device)
        behind = place - classes.start[labels]
        return (behind < 0) | (behind >= classes.size[labels])
    other = classes.label != labels
    number = other.cumsum(1) - 1 - classes.first[labels]  # behind the beginning of the arc
    number = number.remainder(len(classes.order) - classes.size[labels])
    return other & (number < classes.members[labels])


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
