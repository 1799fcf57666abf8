"""Conversion of the student's inputs to a network's preprocessing and its own view."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from torch import Tensor, nn

from kdmm.errors import ConfigError
from kdmm.utils.normalization import Normalization

#: A view of images (B, C, H, W) of 0 to 255, with the data samples; see `kdmm.distillers.Views`.
ViewOf = Callable[[Tensor, Sequence[Any] | None], Tensor]


class InputAdapter:
    """Convert the student's inputs to another normalization, through a view of the images.

    The conversion is exact up to float32 rounding: ``((x * std_s + mean_s) - mean_t) / std_t`` with
    the channels reversed where the orders differ, and the teacher's pad value in padded pixels.
    Batch augmentations of the student's preprocessor stay, both networks see the same picture.

    A view gets the images of 0 to 255, colours in the order R, G, B, and what it gives is
    normalized for the network. One that returns the images it got is as no view, to the bit.

    Args:
        student: The preprocessor that made the inputs.
        teacher: The preprocessor of the network that gets them.
        view: Of that network; None for the batch as it is.
        moves: Whether the view moves the content. Padding moves with it then, and is left as the
            view gives it: the network's pad value would be written over content.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        view: ViewOf | None = None,
        moves: bool = False,
    ) -> None:
        self.student, self.teacher = Normalization.of(student), Normalization.of(teacher)
        self.view, self.moves = view, moves
        self.same = self.student.same_as(self.teacher)
        self.identity = self.same and view is None

    def __call__(
        self, inputs: Any, samples: Sequence[Any] | None, view: ViewOf | None = None
    ) -> Any:
        """(B, C, H, W) in the student's normalization -> (B, C', H', W') in the network's.

        Args:
            inputs: The batch; what is no tensor passes where there is no view.
            samples: The B data samples.
            view: In place of the own one.

        Raises:
            ConfigError: If there is a view, and the batch is no tensor of images.
        """
        view = view or self.view
        if not isinstance(inputs, Tensor):
            if view is not None:
                raise ConfigError(
                    'a view takes one tensor of images',
                    key='train_dataloader.dataset.pipeline',
                    got=type(inputs).__name__,
                )
            return inputs
        if view is None:
            return inputs if self.same else self._normalized(self._raw(inputs), samples)
        raw = self._raw(inputs)
        images = _ordered(raw, self.student.reverse)
        seen = view(images, samples)
        if seen is images:
            return inputs if self.same else self._normalized(raw, samples)
        mean, std = (self._values(seen, self.teacher, name) for name in ('mean', 'std'))
        seen = _ordered(seen, self.teacher.reverse)
        seen = (seen - mean) / std
        return seen if self.moves else self._pad(seen, samples, inputs.shape[-2:])

    def _raw(self, inputs: Tensor) -> Tensor:
        """Undo the student's normalization: 0 to 255 in the student's order of channels."""
        mean, std = (self._values(inputs, self.student, name) for name in ('mean', 'std'))
        return inputs * std + mean

    def _normalized(self, raw: Tensor, samples: Sequence[Any] | None) -> Tensor:
        if self.student.reverse != self.teacher.reverse:
            raw = raw.flip(1)
        mean, std = (self._values(raw, self.teacher, name) for name in ('mean', 'std'))
        return self._pad((raw - mean) / std, samples, raw.shape[-2:])

    @staticmethod
    def _values(like: Tensor, norm: Normalization, name: str) -> Tensor:
        """The mean or deviation, (1, C, 1, 1)."""
        values = getattr(norm, name) or ((0.0,) if name == 'mean' else (1.0,))
        return like.new_tensor(values).view(1, -1, 1, 1)

    def _pad(self, images: Tensor, samples: Sequence[Any] | None, size: Sequence[int]) -> Tensor:
        """Set the pad value right of and below each image's own (h, w).

        Args:
            images: (B, C, H', W'), changed in place.
            samples: Whose ``img_shape`` says (h, w) in a batch of ``size``.
            size: (H, W) before a view that changed it.
        """
        scale = [now / was for now, was in zip(images.shape[-2:], size, strict=True)]
        for image, sample in zip(images, samples or (), strict=False):
            height, width = (getattr(sample, 'img_shape', None) or size)[:2]
            image[..., ceil(height * scale[0]) :, :] = self.teacher.pad
            image[..., ceil(width * scale[1]) :] = self.teacher.pad
        return images


def _ordered(images: Tensor, reverse: bool) -> Tensor:
    """Exchange R, G, B and the order of a network's channels; of other numbers there is none."""
    return images if reverse or images.shape[1] != 3 else images.flip(1)
