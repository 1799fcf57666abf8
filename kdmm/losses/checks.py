"""Checks that all losses share."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..functional import check_labels


def check_maps(name: str, student: Tensor, teacher: Tensor, channels: bool = False) -> None:
    """Refuse maps that are not (B, C, h, w) or differ in B, h, w (and C if asked).

    Raises:
        ValueError: With both shapes.
    """
    shapes = f'student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f'{name} takes maps (B, C, h, w), got {shapes}')
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f'{name}: the numbers of images differ: {shapes}')
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f'{name}: the resolutions differ: {shapes}. Declare a resize connector on this tap, '
            'or tap layers of the same stride'
        )
    if channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(f'{name}: the numbers of classes differ: {shapes}')


def check_same_channels(name: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse maps that differ in their number of channels.

    Raises:
        ValueError: With both shapes and what to declare.
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f'{name}: the numbers of channels differ: student {tuple(student.shape)}, teacher '
            f"{tuple(teacher.shape)}. Declare connector=dict(type='Projection', bias=False) on "
            'features; logits need the same classes (ClassMap)'
        )


def check_channels(name: str, student: Tensor, teacher: Tensor, expected: tuple[int, int]) -> None:
    """Refuse maps whose channels are not those the loss was built for.

    Raises:
        ValueError: With both shapes and both numbers.
    """
    if (student.shape[1], teacher.shape[1]) != expected:
        raise ValueError(
            f'{name} was built with student_channels={expected[0]}, '
            f'teacher_channels={expected[1]}, got student {tuple(student.shape)}, '
            f'teacher {tuple(teacher.shape)}'
        )


def check_positions(
    name: str, student: Tensor, teacher: Tensor, window: Sequence[int] = (1, 1)
) -> None:
    """Refuse maps (B, C, h, w) that have one position, or one window of a pooling.

    A distribution over one position, or a vector over space of unit length, is a constant.

    Raises:
        ValueError: With both shapes and what to do.
    """
    if student.shape[2] > window[0] or student.shape[3] > window[1]:
        return
    pooled = '' if max(window) == 1 else f' in the {window[0]} x {window[1]} windows of its pooling'
    less = '' if max(window) == 1 else ', pool less'
    raise ValueError(
        f'{name} compares the positions of a map with each other, but the maps have one pixel'
        f'{pooled}, whatever the student does: student {tuple(student.shape)}, teacher '
        f'{tuple(teacher.shape)}. Tap a layer of larger maps{less}, or train on larger images'
    )


def check_directions(name: str, student: Tensor, teacher: Tensor, channels: int) -> None:
    """Refuse maps whose pixels the loss would scale to unit length within one channel.

    Args:
        name: The loss.
        student: Its map, for the message.
        teacher: Its map, for the message.
        channels: Of the student's vectors, where they are scaled.

    Raises:
        ValueError: With both shapes and what to do.
    """
    if channels == 1:
        raise ValueError(
            f'{name} compares directions of feature vectors, but with one channel nothing is left '
            f'of a vector but its sign: student {tuple(student.shape)}, teacher '
            f'{tuple(teacher.shape)}. Tap features of several channels'
        )


def check_positive(name: str, **values: float) -> None:
    """Refuse temperatures that are not positive numbers.

    Raises:
        ValueError: With the argument and its value.
    """
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f'{name}: {key} must be a positive number, got {value!r}')


def check_label_map(name: str, labels: Tensor | None, student: Tensor) -> Tensor:
    """Refuse labels that are missing or not (B, H, W) for the student's images.

    Raises:
        ValueError: With both shapes.
    """
    if labels is None:
        raise ValueError(f'{name} needs labels (B, H, W), and none were given')
    if labels.ndim != 3 or labels.shape[0] != student.shape[0]:
        raise ValueError(
            f'{name} takes labels (B, H, W), got {tuple(labels.shape)} for student features '
            f'{tuple(student.shape)}'
        )
    return labels


def as_queue_dtype(name: str | torch.dtype) -> torch.dtype:
    """The torch dtype that a config names.

    Raises:
        ValueError: If it is not a floating type.
    """
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, name, None)
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(
            f"queue_dtype is 'float16', 'bfloat16', 'float32' or 'float64', not {name!r}"
        )
    return dtype


class LabelGuard:
    """Mixed into a loss with ``num_classes`` and ``ignore_index``: refuses foreign labels.

    The check waits for a GPU, so only the first batch gets it there.
    """

    num_classes: int
    ignore_index: int
    _labels_checked = False

    def _check_labels_once(self, labels: Tensor) -> None:
        if not self._labels_checked or not labels.is_cuda:
            check_labels(labels, self.num_classes, self.ignore_index)
            self._labels_checked = True
