"""Connectors bridge a declared mismatch between the two activations of a term."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdmm.registry import MODELS


@MODELS.register_module()
class Resize(nn.Module):
    """Bilinear resize of the student's map to the teacher's height and width.

    For networks of different strides, for instance a CNN at stride 8 and a SegFormer at stride 4.
    An extension: the papers compare maps of one size.

    Args:
        align_corners: As in `torch.nn.functional.interpolate`.
    """

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, h, w), (B, D, H, W) -> (B, C, H, W)."""
        size = teacher.shape[-2:]
        if student.shape[-2:] == size:
            return student
        return F.interpolate(student, size, mode='bilinear', align_corners=self.align_corners)


@MODELS.register_module()
class Projection(nn.Module):
    """1x1 convolution of the student's map to the teacher's number of channels.

    Args:
        student_channels: Filled in by the Distiller.
        teacher_channels: Filled in by the Distiller.
        bias: Whether the convolution has one.
    """

    def __init__(self, student_channels: int, teacher_channels: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=bias)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, h, w), (B, D, H, W) -> (B, D, h, w)."""
        return self.conv(student)
