"""Matching of the layers of different networks, learnt or fixed (L-MCL, arXiv 2207.11518)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, ShapeError

from ..functional import (
    full_precision,
    learned_matching,
    one_to_one_matching,
    pair_weights,
    promote,
    sum_over_ranks,
    uniform_matching,
    world_size,
)
from .base import DistillLoss
from .checks import check_choice
from .embedding import check_pooled

#: Of a network: its stages' pooled embeddings (B, d_i), shallow first, its own last.
Stages = Sequence[Tensor]

_MATCHINGS = ('learned', 'uniform', 'one_to_one')
_ALIKE = 'a network has embeddings of one length at all its stages'
_SEVERAL = 'layers of networks are matched, and a network has one stage'


class LayerMatching(nn.Module):
    """Weights of all pairs of stages for each image, the meta-network of L-MCL (arXiv 2207.11518).

    One linear layer for each network and stage projects its raw embedding; a pair weighs the
    sigmoid of the cosine of both projections. It is trained by the meta-gradient alone.

    Args:
        peer_channels: Of each network, the lengths of its stages' embeddings.
        dim: Length of a projection.
    """

    def __init__(self, peer_channels: Sequence[Sequence[int]], dim: int = 128) -> None:
        super().__init__()
        self.stages = tuple(map(len, peer_channels))
        self.projections = nn.ModuleList(
            nn.Linear(width, dim) for widths in peer_channels for width in widths
        )

    def forward(self, peers: Sequence[Stages]) -> Tensor:
        """N times S_i embeddings (B, d_i) -> (A, A, B), A the sum of S_i; 0 within a network.

        At least float32 under any autocast.
        """
        embeddings = [x for stages in peers for x in stages]
        with full_precision(embeddings[0]):
            found = [
                layer(promote(x)) for layer, x in zip(self.projections, embeddings, strict=True)
            ]
            # A times (B, dim) -> (A, B, dim) -> (A, A, B)
            return learned_matching(torch.stack(found), self.stages)


class MatchedLayers(DistillLoss):
    """Base of mutual losses that weigh pairs of stages by a `LayerMatching` or a fixed one.

    In an ordinary step the weights are constants. Inside `differentiate_matching` they are
    functions of the matching's parameters and of the embeddings, as in the authors' inner steps.
    The matching's parameters require no gradient, so the student's optimizer does not have them;
    the objective that trains them wraps `matching` in a `kdmm.losses.base.OwnedOptimizer`.

    Buffers: ``matched`` (A, A) and ``matched_steps``, the mean weights of the training steps since
    `reset_matching_mean`.

    Attributes:
        matching: The `LayerMatching`, None for a fixed one.
        matched_by: ``'learned'``, ``'uniform'`` or ``'one_to_one'``.
        stages: Numbers of stages of the networks.
    """

    mutual = True
    parts = ('vcl', 'soft_vcl', 'icl', 'soft_icl')
    matching: LayerMatching | None
    matched: Tensor
    matched_steps: Tensor

    def match_layers(
        self, peer_channels: Sequence[Sequence[int]], matching: str, double_count: bool
    ) -> None:
        """Build the matching; to be called in ``__init__``, after the base's.

        Args:
            peer_channels: Of each network, the lengths of its stages' embeddings.
            matching: ``'learned'``, ``'uniform'`` or ``'one_to_one'``.
            double_count: See `kdmm.functional.pair_weights`.

        Raises:
            ConfigError: If there is nothing to match, or it cannot be matched in this way.
        """
        check_choice('matching', matching, _MATCHINGS)
        check_stages(peer_channels)
        self.stages = tuple(map(len, peer_channels))
        if matching == 'one_to_one' and len(set(self.stages)) > 1:
            raise ConfigError(
                f'the networks have {", ".join(map(str, self.stages))} stages',
                key='matching',
                got=matching,
                expected='as many stages of each network',
                fix="Take 'learned' or 'uniform'.",
            )
        self.double_count, self.matched_by = double_count, matching
        self.matching, self.needs_meta = None, matching == 'learned'
        if self.needs_meta:
            self.matching = LayerMatching(peer_channels)
            self.matching.requires_grad_(False)
        total = sum(self.stages)
        self.register_buffer('matched', torch.zeros(total, total))
        self.register_buffer('matched_steps', torch.zeros((), dtype=torch.long))
        self._differentiating = False

    def note(self) -> str:
        """Return what is matched, and how."""
        within = sum(number**2 for number in self.stages)
        pairs = (sum(self.stages) ** 2 - within) // 2
        return f'{pairs} pairs of stages, matching {self.matched_by}'

    @contextmanager
    def differentiate_matching(self) -> Iterator[None]:
        """Let the weights have a gradient, and keep nothing of the forward passes, in the block.

        For the steps of the meta-optimisation, on the batch of the last training step: no mean of
        the weights is kept, and a bank neither remembers nor draws anew.
        """
        self._differentiating = True
        try:
            yield
        finally:
            self._differentiating = False

    def check(self, peers: Sequence[Stages]) -> None:
        """Refuse what are not the pooled embeddings of several stages of each network.

        Raises:
            ValueError: With all shapes.
        """
        if any(isinstance(x, Tensor) for x in peers):
            name = type(self).__name__
            raise ShapeError(f'{name} reads several stages of a network', 'layers', peers=peers)
        check_pooled([x for stages in peers for x in stages])
        if any(len(stages) < 2 for stages in peers):
            raise ShapeError(_SEVERAL, 'layers', peers=peers)
        if any(x.shape[1] != stages[0].shape[1] for stages in peers for x in stages):
            raise ShapeError(_ALIKE, 'channels', peers=peers)

    def stage_weights(self, peers: Sequence[Stages]) -> Tensor:
        """Weights of ordered pairs of stages on this process's images, (A, A, B) or (A, A, 1)."""
        if self.matching is None:
            made = uniform_matching if self.matched_by == 'uniform' else one_to_one_matching
            return made(self.stages, promote(peers[0][0].detach()))
        with torch.set_grad_enabled(self._differentiating and torch.is_grad_enabled()):
            return self.matching(peers)

    def both_orders(self, weights: Tensor) -> Tensor:
        """Weights of pairs, counted as ``double_count`` says."""
        return pair_weights(weights, self.stages, self.double_count)

    @torch.no_grad()
    def note_matching(self, weights: Tensor) -> None:
        """Take the weights (A, A, B) of a training step into the mean, over all ranks."""
        mean = sum_over_ranks(weights.mean(-1)) / world_size()
        self.matched_steps += 1
        self.matched += (mean - self.matched) / self.matched_steps

    @property
    def keeps(self) -> bool:
        """True in a training step, whose forward pass leaves a trace."""
        return self.training and torch.is_grad_enabled() and not self._differentiating

    def matching_mean(self) -> Tensor:
        """Mean weights (A, A) of ordered pairs, over images and steps since the last reset.

        Rows and columns are those of `matching_rows`. It is 0 within a network, and everywhere
        before the first step.
        """
        return self.matched.clone()

    def reset_matching_mean(self) -> None:
        """Begin a new mean, for instance in each epoch."""
        self.matched.zero_()
        self.matched_steps.zero_()

    def matching_rows(self) -> list[tuple[int, int]]:
        """Place of the network and stage, both from 0, of each of the A rows."""
        return [(i, s) for i, number in enumerate(self.stages) for s in range(number)]


def check_stages(peer_channels: Sequence[Sequence[int]]) -> None:
    """Refuse networks whose stages cannot be matched.

    Raises:
        ConfigError: For one network, one stage, or different lengths within a network.
    """
    key = 'peer_channels'
    if len(peer_channels) < 2:
        raise ConfigError(
            'layers of different networks are matched',
            key=key,
            got=f'{len(peer_channels)} network',
            expected='2 or more',
            fix='Raise kd.peers.',
        )
    for place, widths in enumerate(peer_channels):
        if isinstance(widths, int) or len(widths) < 2:
            raise ConfigError(
                _SEVERAL,
                key=f'{key}[{place}]',
                got=widths,
                expected='the lengths of 2 embeddings or more',
                fix="Read the tap 'stages' of networks with branches, or take MCLLoss.",
            )
        if len(set(widths)) > 1:
            raise ConfigError(_ALIKE, key=f'{key}[{place}]', got=widths, expected='one length')
