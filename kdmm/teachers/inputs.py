"""Conversion of the student's inputs to the teacher's preprocessing."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdmm.utils.normalization import Normalization


class InputAdapter:
    """Convert the student's inputs to the teacher's normalization.

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
            inputs.new_tensor(value).view(1, -1, 1, 1)
            for value in (
                self.student.mean or (0.0,),
                self.student.std or (1.0,),
                self.teacher.mean or (0.0,),
                self.teacher.std or (1.0,),
            )
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
