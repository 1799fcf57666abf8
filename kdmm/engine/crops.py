"""Corner crops of a batch, and extrapolation from them to the whole batch."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SMALL_SIDES = (4, 2)  # small crops have this fraction of the crop's sides
SHORTEST = 256  # below this many pixels the whole crop is tried
MULTIPLE = 32  # strides divide it


def extrapolate(found: Sequence[tuple[int, float]], pixels: int) -> float:
    """Extrapolate (pixels, bytes) by ``a * pixels + b * pixels^2``, one point by ``a`` alone."""
    (first, low), (last, high) = found[0], found[-1]
    square = 0.0
    if first != last:
        square = max((high / last - low / first) / (last - first), 0.0)
    return (high / last - square * last) * pixels + square * pixels**2


def noise_at_full_size(value: Any, crop: Tensor, inputs: Tensor) -> Any:
    """Noise in the shape of an activation for one image of the full size."""
    if isinstance(value, Mapping):
        return {key: noise_at_full_size(item, crop, inputs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(noise_at_full_size(item, crop, inputs) for item in value)
    if not isinstance(value, Tensor):
        return value
    shape = [1, *value.shape[1:]]
    if value.ndim == 4:
        for side in (-2, -1):
            shape[side] = round(shape[side] * inputs.shape[side] / crop.shape[side])
    noise = torch.rand(shape, device=value.device).to(value.dtype)
    return noise.requires_grad_(value.requires_grad)


def corner_crops(inputs: Tensor, samples: Sequence[Any]) -> list[tuple[Tensor, list[Any]]]:
    """Crop the corners of at most two images, with their samples."""
    number, (height, width) = min(len(inputs), 2), inputs.shape[-2:]
    sides = [(height, width)]
    if min(height, width) >= SHORTEST:
        sides = [
            (height // part // MULTIPLE * MULTIPLE, width // part // MULTIPLE * MULTIPLE)
            for part in SMALL_SIDES
        ]
    return [
        (
            inputs[:number, :, :h, :w].clone(memory_format=torch.contiguous_format),
            [_cropped(sample, h, w) for sample in samples[:number]],
        )
        for h, w in sides
    ]


def _cropped(sample: Any, height: int, width: int) -> Any:
    labels = getattr(sample, 'gt_sem_seg', None)
    if labels is None:
        return sample
    small = copy.copy(sample)
    small.gt_sem_seg = type(labels)(data=labels.data[..., :height, :width])
    return small
