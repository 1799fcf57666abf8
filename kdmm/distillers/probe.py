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
    mine = look(student, student_taps, size)
    theirs = teacher(_image(student, size))
    crop = training_crop(student)
    return Probe(
        {
            name: (_blank(mine[name], size, crop), _blank(theirs[name], size, crop))
            for name in theirs
        },
        note_of(size, crop),
    )


def blank_taps(network: nn.Module, taps: Taps, size: Size) -> tuple[dict[str, Any], str]:
    """One network's predicted activations, blank, and the note on them; see `Probe`."""
    crop = training_crop(network)
    found = look(network, taps, size)
    return {name: _blank(value, size, crop) for name, value in found.items()}, note_of(size, crop)


def look(network: nn.Module, taps: Taps, size: Size) -> dict[str, Any]:
    """The taps on a blank image of ``size``, in eval mode."""
    was_training = network.training
    try:
        network.eval()
        with torch.no_grad(), taps.record(stop_early=True) as found:
            network(_image(network, size), None, mode='tensor')
    finally:
        network.train(was_training)
    return found


def note_of(size: Size, crop: Size | None) -> str:
    """For which input shapes were predicted."""
    note = 'for a training crop of {}x{}'.format(*(crop or size))
    if crop is None:
        note += ' (kd.probe_size; model.data_preprocessor does not say the size)'
    return note


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


def _image(network: nn.Module, size: Size) -> Tensor:
    return next(iter(network.parameters())).new_zeros(1, 3, *size)


def _blank(value: Any, size: Size, crop: Size | None) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_blank(item, size, crop) for item in value)
    if not isinstance(value, Tensor):
        return value
    return torch.zeros(()).expand(scaled(value.shape, size, crop or size))
