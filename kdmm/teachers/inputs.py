"""Lets a teacher see its own preprocessing although the batch was prepared for the student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalization:
    """What a data preprocessor does to the values of an image.

    Attributes:
        mean, std: (C,) in the network's channel order.
        reverse: Whether BGR files are turned into RGB (or the reverse).
        pad: Value of padded pixels, after normalisation.
    """

    mean: Tensor
    std: Tensor
    reverse: bool
    pad: float

    @classmethod
    def of(cls, preprocessor: nn.Module) -> 'Normalization':
        """Read it off a preprocessor of mmseg, mmdet, mmpose, mmpretrain or MMEngine."""
        mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
        reverse = any(
            bool(getattr(preprocessor, name, False))
            for name in ('_channel_conversion', 'channel_conversion', 'to_rgb')
        )
        pad = getattr(preprocessor, 'pad_val', getattr(preprocessor, 'pad_value', 0))
        return cls(
            torch.zeros(1) if mean is None else mean.detach().flatten().cpu().float(),
            torch.ones(1) if std is None else std.detach().flatten().cpu().float(),
            reverse,
            float(pad) if isinstance(pad, int | float) else 0.0,
        )

    def same_as(self, other: 'Normalization') -> bool:
        """Whether both give the same tensor for the same image."""
        return (
            self.reverse == other.reverse
            and self.pad == other.pad
            and torch.equal(*torch.broadcast_tensors(self.mean, other.mean))
            and torch.equal(*torch.broadcast_tensors(self.std, other.std))
        )


class InputAdapter:
    """Turns the student's input into what the teacher was trained on.

    The conversion is exact up to float32 rounding: ``((x * std_s + mean_s) - mean_t) / std_t`` with
    the channels reversed where the orders differ, and the teacher's pad value in padded pixels.
    Batch augmentations of the student's preprocessor stay, both networks see the same picture.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self.student, self.teacher = Normalization.of(student), Normalization.of(teacher)
        self.identity = self.student.same_as(self.teacher)

    def __call__(self, inputs: Any, samples: Sequence[Any] | None) -> Any:
        """(B, C, H, W) in the student's normalisation -> the same in the teacher's."""
        if self.identity or not isinstance(inputs, Tensor):
            return inputs
        mean_s, std_s, mean_t, std_t = (
            value.to(inputs).view(1, -1, 1, 1)
            for value in (self.student.mean, self.student.std, self.teacher.mean, self.teacher.std)
        )
        raw = inputs * std_s + mean_s
        if self.student.reverse != self.teacher.reverse:
            raw = raw.flip(1)
        return self._pad((raw - mean_t) / std_t, samples)

    def _pad(self, images: Tensor, samples: Sequence[Any] | None) -> Tensor:
        """Restore the pad value right of and below each image's own (h, w)."""
        for image, sample in zip(images, samples or (), strict=False):
            height, width = (getattr(sample, 'img_shape', None) or image.shape[-2:])[:2]
            image[..., height:, :] = self.teacher.pad
            image[..., width:] = self.teacher.pad
        return images
