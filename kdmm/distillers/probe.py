"""What shapes the taps will have, found before training starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.distillers.taps import Taps
from kdmm.distillers.teacher import Teacher

Size = tuple[int, int]


@dataclass(frozen=True)
class Probe:
    """Predicted activations, blank.

    Attributes:
        pairs: Tap name to (student, teacher): zeros (1, C, h, w), of stride 0 and thus of no size.
        note: For which input, as the end of an error message.
    """

    pairs: dict[str, tuple[Any, Any]]
    note: str


def probe(student: nn.Module, student_taps: Taps, teacher: Teacher, size: Size) -> Probe:
    """Run both networks on a blank image of ``size`` and scale the maps to the training crop.

    The crop is what the student's data preprocessor pads to. Where it does not say, ``size`` stands
    for it.
    """
    blank = next(iter(student.parameters())).new_zeros(1, 3, *size)
    was_training = student.training
    try:
        student.eval()
        with torch.no_grad(), student_taps.record(stop_early=True) as mine:
            student(blank, None, mode='tensor')
        theirs = teacher(blank)
    finally:
        student.train(was_training)
    crop = training_crop(student)
    note = 'for a training crop of {}x{}'.format(*(crop or size))
    if crop is None:
        note += ' (kd.probe_size; model.data_preprocessor does not say the size)'
    return Probe(
        {
            name: (_blank(mine[name], size, crop), _blank(theirs[name], size, crop))
            for name in theirs
        },
        note,
    )


def training_crop(student: nn.Module) -> Size | None:
    """(H, W) that the data preprocessor pads training images to, if it says."""
    size = getattr(getattr(student, 'data_preprocessor', None), 'size', None)
    if isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return size[0], size[1]
    return None


def scaled(shape: Sequence[int], size: Size, crop: Size) -> tuple[int, ...]:
    """(B, C, h, w) for an image of ``size`` -> for one of ``crop``, rounded up."""
    if len(shape) != 4:
        return tuple(shape)
    sides = [-(-n * new // old) for n, old, new in zip(shape[2:], size, crop, strict=True)]
    return (*shape[:2], *sides)


def _blank(value: Any, size: Size, crop: Size | None) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_blank(item, size, crop) for item in value)
    if not isinstance(value, Tensor):
        return value
    return torch.zeros(()).expand(scaled(value.shape, size, crop or size))
