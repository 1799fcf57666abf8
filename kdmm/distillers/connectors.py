"""Connectors bridge a declared mismatch between the two activations of a term.

A connector is a registered module with ``forward(student, teacher) -> (student, teacher)``; both
may change. Arguments called ``student_channels``, ``teacher_channels``, ``num_classes`` and
``ignore_index`` are filled in by the Distiller.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdmm.registry import MODELS


@MODELS.register_module()
class Resize(nn.Module):
    """Bilinear resize to one height and width.

    For networks of different strides, for instance a CNN at stride 8 and a SegFormer at stride 4.
    An extension: the papers compare maps of one size.

    Args:
        to: ``'teacher'``: the student's map to the teacher's size. ``'student'``: the teacher's to
            the student's, which costs less where the teacher's is the larger. (h, w): both to it.
        align_corners: As in `torch.nn.functional.interpolate`.

    Raises:
        ValueError: If ``to`` is none of these.
    """

    def __init__(self, to: str | Sequence[int] = 'teacher', align_corners: bool = False) -> None:
        super().__init__()
        if to not in ('teacher', 'student') and not _is_size(to):
            raise ValueError(
                f"Resize: to is 'teacher', 'student' or (h, w) in positive integers, not {to!r}"
            )
        self.to_size = to if isinstance(to, str) else tuple(to)
        self.align_corners = align_corners

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, D, H, W) -> the same with equal sizes; a map that fits is not copied.

        Raises:
            ValueError: If one of them is no map; with both shapes.
        """
        if student.ndim != 4 or teacher.ndim != 4:
            shapes = f'student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
            raise ValueError(f'Resize takes maps (B, C, h, w), got {shapes}')
        ends = dict(teacher=teacher.shape[-2:], student=student.shape[-2:])
        size = ends[self.to_size] if isinstance(self.to_size, str) else self.to_size
        return self._resize(student, size), self._resize(teacher, size)

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(x.shape[-2:]) == tuple(size):
            return x
        return F.interpolate(x, tuple(size), mode='bilinear', align_corners=self.align_corners)


@MODELS.register_module()
class Projection(nn.Module):
    """1x1 convolution of the student's map to the teacher's number of channels.

    Trained with the student; part of the run's state and of no student's file.

    Args:
        student_channels: Filled in by the Distiller.
        teacher_channels: Filled in by the Distiller.
        bias: Whether the convolution has one.
    """

    def __init__(self, student_channels: int, teacher_channels: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=bias)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, D, H, W) -> (B, D, h, w), (B, D, H, W).

        Raises:
            ValueError: If the student's activation is no map; with both shapes.
        """
        if student.ndim != 4:
            shapes = f'student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
            raise ValueError(f'Projection takes maps (B, C, h, w), got {shapes}')
        return self.conv(student), teacher


def _is_size(value: object) -> bool:
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    return pair and all(type(side) is int and side > 0 for side in value)  # type: ignore[attr-defined]
