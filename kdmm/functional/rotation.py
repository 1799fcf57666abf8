"""The four rotations of an image as a task of their own (HSSAKD, arXiv 2109.03075, section III).

Rows are interleaved: row ``4 * b + r`` is image b turned by ``90 * r`` degrees counter-clockwise.
"""

import torch
from torch import Tensor

#: Views of an image.
ROTATIONS = 4


def rotations(images: Tensor) -> Tensor:
    """All four rotations of each image, made where the images lie.

    Args:
        images: (B, C, S, S), square.

    Returns:
        (4B, C, S, S), interleaved.

    Raises:
        ValueError: If the images are not square: two of the views would have another shape.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f'the rotation task needs square images, got {height}x{width}: crop or resize them'
        )
    views = [torch.rot90(images, turns, (-2, -1)) for turns in range(ROTATIONS)]
    return torch.stack(views, 1).flatten(0, 1)  # (B, 4, C, S, S) -> (4B, C, S, S)


def unrotated(rows: Tensor) -> Tensor:
    """Of interleaved rows (4B, ...) those of the images as they were, (B, ...)."""
    return rows[::ROTATIONS]


def joint_labels(labels: Tensor) -> Tensor:
    """Class and rotation as one label: (B,) -> (4B,), ``4 * class + rotation``."""
    turns = torch.arange(ROTATIONS, device=labels.device)
    return (ROTATIONS * labels[:, None] + turns).flatten()  # (B, 4) -> (4B,)


def class_marginals(joint_logits: Tensor) -> Tensor:
    """Class scores of joint logits, (R, 4C) -> (R, C): the sum of a class's four raw logits.

    For diagnostics, as the reference reports them; it is no marginal of the probabilities.
    """
    return joint_logits.unflatten(1, (-1, ROTATIONS)).sum(2)  # (R, 4C) -> (R, C, 4) -> (R, C)
