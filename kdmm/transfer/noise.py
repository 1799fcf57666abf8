"""Weights of no meaning that let every weight be seen in the features."""

from collections.abc import Mapping

import torch
from torch import Tensor


def noise_like(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random weights that keep activations finite; what is not floating point stays."""
    generator = torch.Generator().manual_seed(1)
    return {key: _noise(key, value, generator) for key, value in state.items()}


def _noise(key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value
    if value.dim() > 1:
        fan_in = value[0].numel()
        return torch.randn(value.shape, generator=generator) * max(fan_in, 1) ** -0.5
    if key.endswith(('weight', 'running_var')):
        return torch.rand(value.shape, generator=generator) + 0.5
    return torch.randn(value.shape, generator=generator) * 0.1
