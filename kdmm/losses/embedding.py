"""Embedding heads of contrastive losses: unit vectors behind one or two linear layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, ShapeError

from ..functional import normalize_rows


class EmbeddingHeads(nn.Module):
    """A head for each of N networks: Linear, ReLU, Linear, unit length (MCL, arXiv 2104.12565).

    Args:
        channels: Length of each network's pooled features.
        dim: Length of an embedding.
        linear: One linear layer only (CRD, arXiv 1910.10699).

    Raises:
        ValueError: If ``dim`` is less than 2.
    """

    def __init__(self, channels: Sequence[int], dim: int = 128, linear: bool = False) -> None:
        super().__init__()
        if dim < 2:
            raise ConfigError(
                'for embeddings of unit length to differ',
                key='dim',
                got=dim,
                expected='2 channels or more',
            )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim))
            if linear
            else nn.Sequential(nn.Linear(width, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))
            for width in channels
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """N times (B, channels of the network) -> unit rows (N, B, dim), at least float32.

        Raises:
            ValueError: As `check_pooled`.
        """
        check_pooled(features)
        # N times (B, channels) -> (N, B, dim)
        rows = torch.stack([head(x) for head, x in zip(self.heads, features, strict=True)])
        return normalize_rows(rows, dim=-1)


def check_pooled(features: Sequence[Tensor]) -> None:
    """Refuse features that are not one vector an image.

    Raises:
        ValueError: If a network's features are not (B, channels).
    """
    if any(not isinstance(x, Tensor) or x.ndim != 2 for x in features):
        raise ShapeError(
            'embeddings are made of pooled features (B, channels)',
            'unpooled',
            'Give what a classifier reads.',
            peers=features,
        )
