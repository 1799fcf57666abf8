"""Passes of a model that need images alone: the whole model, or its backbone."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

#: Computes a network's outputs for images of (B, C, H, W).
Pass = Callable[[nn.Module, Tensor], Any]


def whole(model: Any, images: Tensor) -> Any:
    """The outputs of a model before losses and predictions."""
    return model(images, None, mode='tensor') if isinstance(model, BaseModel) else model(images)


def backbone(model: Any, images: Tensor) -> Any:
    """The outputs of a model's backbone."""
    return model.backbone(images)


def pass_of(model: nn.Module, size: tuple[int, int]) -> Pass:
    """Return `whole`, or `backbone` for models that ask for annotations, as two-stage detectors do.

    Args:
        model: In eval mode.
        size: Height and width of the images.
    """
    if hasattr(model, 'backbone'):
        with torch.no_grad():
            try:
                whole(model, images_for(model, size, 1))
            except Exception:  # whatever a model does without data samples
                return backbone
    return whole


def images_for(model: nn.Module, size: tuple[int, int], batch: int) -> Tensor:
    """Noise of (batch, C, H, W), the same each time, where the model's weights are."""
    first = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, first.in_channels, *size, generator=generator).to(first.weight)
