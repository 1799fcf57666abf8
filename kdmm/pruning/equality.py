"""Comparison of a network that has zero filters with the one that was extracted from it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError
from kdmm.pruning.passes import backbone, images_for, pass_of, whole
from kdmm.taps import leaves

#: Relative difference that rounding in float32 may make.
TOLERANCE = 1e-5


class Difference(NamedTuple):
    """Result of a comparison.

    Attributes:
        features: Largest difference in an output of the backbone, relative to its largest value.
        outputs: The same of the model's outputs; None if it does not run on images alone.
        sizes: Heights and widths of the images.
    """

    features: float
    outputs: float | None
    sizes: tuple[tuple[int, int], ...]

    @property
    def largest(self) -> float:
        """The larger of the two."""
        return max(self.features, self.outputs or 0.0)


@torch.no_grad()
def compare(
    masked: nn.Module, small: nn.Module, sizes: Sequence[tuple[int, int]], batch: int = 2
) -> Difference:
    """Run two models in eval mode on the same noise of each size.

    Args:
        masked: A model with a ``backbone``.
        small: Another one with outputs of the same shapes.
        sizes: Heights and widths. What holds at one may not hold at another: convolutions meet
            the border elsewhere.
        batch: Number of images.

    Raises:
        ConfigError: If outputs of ``masked`` are not finite.
    """
    features, outputs = 0.0, 0.0
    with _in_eval_mode(masked, small):
        runs = pass_of(masked, sizes[0])
        for size in sizes:
            images = images_for(masked, size, batch)
            features = max(features, _largest(backbone, masked, small, images))
            if runs is whole:
                outputs = max(outputs, _largest(whole, masked, small, images))
    return Difference(features, outputs if runs is whole else None, tuple(sizes))


@torch.no_grad()
def second_size(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return another size to compare at: smaller, odd, so that strides meet the border elsewhere.

    For a network that asks for multiples of 32, such as HRNet, it is larger by 32.

    Args:
        model: In eval mode.
        size: Height and width of the first.
    """
    height, width = size
    other = max(height * 3 // 4, 32) | 1, max(width // 2, 32) + 9 | 1
    try:
        pass_of(model, size)(model, images_for(model, other, 1))
    except RuntimeError:
        return height + 32, width
    return other


def _largest(run: Any, masked: nn.Module, small: nn.Module, images: Tensor) -> float:
    ours = [value.clone() for value in _tensors(run(masked, images))]
    theirs = _tensors(run(small, images))
    return max(_relative(a, b) for a, b in zip(ours, theirs, strict=True))


def _relative(wanted: Tensor, found: Tensor) -> float:
    if not wanted.isfinite().all():
        raise ConfigError('the outputs of its network are not finite', key='checkpoint')
    if torch.equal(wanted, found):
        return 0.0
    return ((wanted - found).abs().max() / wanted.abs().max()).nan_to_num(torch.inf).item()


def _tensors(output: Any) -> list[Tensor]:
    return [value for value in leaves(output) if value.is_floating_point()]


@contextmanager
def _in_eval_mode(*models: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        for model in models:
            stack.callback(model.train, model.training)
            model.eval()
        yield
