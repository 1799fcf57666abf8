"""Discriminator of a student's logits and a teacher's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..compat.packages import require
from ..functional import full_precision, promote
from .projector import auto_norm


class SelfAttention(nn.Module):
    """``x + gamma * attended(x)`` over the positions of a map, ``gamma`` 0 at first (SAGAN).

    Args:
        channels: C; queries and keys have C / 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        # (B, C, h, w) -> (B, C / 8, N), (B, C / 8, N) and (B, C, N), N = h * w
        query, key, value = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        shares = (query.transpose(1, 2) @ key).softmax(dim=2)  # (B, N queries, N keys)
        # (B, C, N) @ (B, N keys, N queries) -> (B, C, h, w)
        return x + self.gamma * (value @ shares.transpose(1, 2)).view_as(x)


class Discriminator(nn.Module):
    """Scores of logit maps, after SAGAN (arXiv 1805.08318) as structured distillation uses it.

    A norm; four 4x4 convolutions of stride 2 and padding 1 with spectral norm, each with a leaky
    ReLU of slope 0.1; self-attention after the third and the fourth; a 4x4 convolution without
    padding to one channel. 3.19 million parameters for 19 classes. Computed in float32 (float64 if
    the input is) under any autocast.

    The norm keeps no running statistics: a discriminator does not predict, and so ranks differ only
    by gradients.

    Args:
        channels: Classes K of the logits.
        width: Channels of the first convolution; the others have 2, 4 and 8 times as many.
        norm_cfg: The norm's; ``'auto'``: SyncBN on several GPUs, else BN. None: no norm.
    """

    #: Four halvings of it leave 4 x 4 for the last convolution.
    min_side = 64

    def __init__(
        self, channels: int, width: int = 64, norm_cfg: dict[str, Any] | str | None = 'auto'
    ) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = _norm(channels, norm_cfg)
        for index in range(4):
            conv = nn.Conv2d(widths[index], widths[index + 1], 4, stride=2, padding=1)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.1)]
            layers += [SelfAttention(widths[index + 1])] if index >= 2 else []
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4))

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K, h, w), sides of 64 at least -> scores (B, 1, h // 16 - 3, w // 16 - 3)."""
        with full_precision(logits):
            return self.layers(promote(logits))


def too_small(size: Sequence[int]) -> bool:
    """Return True if maps of (..., h, w) are too small for a `Discriminator`."""
    return min(size[-2:]) < Discriminator.min_side


def _norm(channels: int, norm_cfg: dict[str, Any] | str | None) -> list[nn.Module]:
    if norm_cfg is None:
        return []
    config = auto_norm() if isinstance(norm_cfg, str) else norm_cfg
    build = require('mmcv.cnn', "the discriminator's norm_cfg").build_norm_layer
    return [build({**config, 'track_running_stats': False}, channels)[1]]
