"""Checks that all losses share."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError, ShapeError

from ..functional import check_labels


def check_maps(name: str, student: Tensor, teacher: Tensor, channels: bool = False) -> None:
    """Refuse maps that are not (B, C, h, w) or differ in B, h, w (and C if asked).

    Raises:
        ShapeError: With both shapes.
    """
    pair: dict[str, Any] = dict(student=student, teacher=teacher)
    if student.ndim != 4 or teacher.ndim != 4:
        raise ShapeError(f'{name} takes maps (B, C, h, w)', 'form', **pair)
    if student.shape[0] != teacher.shape[0]:
        raise ShapeError(f'{name}: the numbers of images differ', 'images', **pair)
    if student.shape[2:] != teacher.shape[2:]:
        fix = 'Resize one of them.'
        raise ShapeError(f'{name}: the resolutions differ', 'resolution', fix, **pair)
    if channels and student.shape[1] != teacher.shape[1]:
        fix = 'Compare the classes that both have.'
        raise ShapeError(f'{name}: the numbers of classes differ', 'classes', fix, **pair)


def check_same_channels(name: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse maps that differ in their number of channels.

    Raises:
        ShapeError: With both shapes.
    """
    if student.shape[1] != teacher.shape[1]:
        raise ShapeError(
            f'{name}: the numbers of channels differ',
            'channels',
            "Project the student's to the teacher's; of logits compare the classes that both have.",
            student=student,
            teacher=teacher,
        )


def check_logits(name: str, student: Tensor, teacher: Tensor, ndims: Sequence[int]) -> None:
    """Refuse logits (B, K) or (B, K, h, w) that differ in shape, or are of one class.

    Args:
        name: The loss.
        student: Its logits.
        teacher: Its logits.
        ndims: Numbers of dimensions that the loss takes, of 2 and 4.

    Raises:
        ShapeError: With both shapes.
    """
    pair: dict[str, Any] = dict(student=student, teacher=teacher)
    if student.ndim not in ndims or teacher.ndim != student.ndim:
        forms = ' or '.join({2: '(B, K)', 4: '(B, K, h, w)'}[ndim] for ndim in ndims)
        raise ShapeError(f'{name} takes logits {forms}', 'form', **pair)
    if student.shape[0] != teacher.shape[0]:
        raise ShapeError(f'{name}: the numbers of images differ', 'images', **pair)
    if student.shape[1] != teacher.shape[1]:
        raise ShapeError(f'{name}: the numbers of classes differ', 'classes', **pair)
    if student.shape[2:] != teacher.shape[2:]:
        fix = 'Resize one of them.'
        raise ShapeError(f'{name}: the resolutions differ', 'resolution', fix, **pair)
    if student.shape[1] == 1:
        raise ShapeError(
            f'{name} compares softmax distributions over classes, but the logits have one',
            'one class',
            'Give the heads two classes or more.',
            **pair,
        )


def layers(
    name: str, student: Any, teacher: Any, expected: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Pair the networks' activations of one tap, or of each of several.

    Args:
        name: The loss.
        student: A tensor, or a sequence of them.
        teacher: Likewise.
        expected: How many there must be.

    Raises:
        ShapeError: If there are others, or the networks give different numbers of them.
    """
    mine, theirs = ([x] if isinstance(x, Tensor) else list(x) for x in (student, teacher))
    pair: dict[str, Any] = dict(student=student, teacher=teacher)
    if len(mine) != len(theirs):
        raise ShapeError(f'{name}: the numbers of maps differ', 'form', **pair)
    if expected not in (None, len(mine)):
        raise ShapeError(f'{name} was built for {expected} taps', 'form', **pair)
    return list(zip(mine, theirs, strict=True))


def check_channels(name: str, student: Tensor, teacher: Tensor, expected: tuple[int, int]) -> None:
    """Refuse maps whose channels are not those the loss was built for.

    Raises:
        ShapeError: With both shapes and both numbers.
    """
    if (student.shape[1], teacher.shape[1]) != expected:
        raise ShapeError(
            f'{name} was built with student_channels={expected[0]}, teacher_channels={expected[1]}',
            'declared channels',
            student=student,
            teacher=teacher,
        )


def check_positions(
    name: str, student: Tensor, teacher: Tensor, window: Sequence[int] = (1, 1)
) -> None:
    """Refuse maps (B, C, h, w) that have one position, or one window of a pooling.

    A distribution over one position, or a vector over space of unit length, is a constant.

    Raises:
        ShapeError: With both shapes.
    """
    if student.shape[2] > window[0] or student.shape[3] > window[1]:
        return
    pools = max(window) > 1
    place = f' in the {window[0]} x {window[1]} windows of its pooling' if pools else ''
    raise ShapeError(
        f'{name} compares the positions of a map with each other, but the maps have one pixel'
        f'{place}, whatever the student does',
        'one window' if pools else 'one pixel',
        'Give larger maps, or pool less.' if pools else 'Give larger maps.',
        student=student,
        teacher=teacher,
    )


def check_directions(name: str, student: Tensor, teacher: Tensor, channels: int) -> None:
    """Refuse maps whose pixels the loss would scale to unit length within one channel.

    Args:
        name: The loss.
        student: Its map, for the message.
        teacher: Its map, for the message.
        channels: Of the student's vectors, where they are scaled.

    Raises:
        ShapeError: With both shapes.
    """
    if channels == 1:
        raise ShapeError(
            f'{name} compares directions of feature vectors, but with one channel nothing is left '
            'of a vector but its sign',
            'one channel',
            'Give features of several channels.',
            student=student,
            teacher=teacher,
        )


def check_positive(**values: float) -> None:
    """Refuse arguments, temperatures mostly, that are not positive numbers.

    Raises:
        ConfigError: With the argument and its value.
    """
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(key=key, got=value, expected='a positive number')


def check_count(**values: int) -> None:
    """Refuse arguments that are not whole numbers of 1 or more.

    Raises:
        ConfigError: With the argument and its value.
    """
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(key=key, got=value, expected='a whole number of at least 1')


def check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an argument that is none of ``choices``.

    Raises:
        ConfigError: With the argument, its value and the choices.
    """
    if value not in choices:
        *most, last = map(repr, choices)
        raise ConfigError(key=key, got=value, expected=f'{", ".join(most)} or {last}')


def check_label_map(name: str, labels: Tensor | None, student: Tensor) -> Tensor:
    """Refuse labels that are missing or not (B, H, W) for the student's images.

    Raises:
        ShapeError: With both shapes.
    """
    if labels is None:
        raise ShapeError(f'{name} needs labels (B, H, W), and none were given', 'labels')
    if labels.ndim != 3 or labels.shape[0] != student.shape[0]:
        raise ShapeError(f'{name} takes labels (B, H, W)', 'labels', student=student, labels=labels)
    return labels


def as_queue_dtype(name: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype that a config names.

    Raises:
        ConfigError: If it is not a floating type.
    """
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, name, None)
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        expected = "'float16', 'bfloat16', 'float32' or 'float64'"
        raise ConfigError(key='queue_dtype', got=name, expected=expected)
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
