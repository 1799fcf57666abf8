"""Logit distillation from a mix of the stages of each network (L-MCL, arXiv 2207.11518)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmm.errors import ConfigError, ShapeError

from ..functional import full_precision, gated_logits, kl_divergence, promote
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_positive
from .embedding import check_pooled
from .layer_matching import check_stages

#: Of a network: embeddings (B, d_i) and logits (B, C) of its stages, shallow first, its own last.
StagesAndLogits = tuple[Sequence[Tensor], Sequence[Tensor]]


@MODELS.register_module()
class StageEnsembleLoss(DistillLoss):
    """An ensemble of each network's stages, which teaches all networks (L-MCL, arXiv 2207.11518).

    An aggregator of a network, ``Linear(S d, d) - ReLU - Linear(d, S)`` on its stages' joined
    embeddings, gives each image a share of every stage, and the ensemble is the mix of the stages'
    logits. Part ``ce`` is the sum over networks of the cross entropy of the ensemble with the
    labels, which trains aggregators and stages; ``kd`` is the sum over all networks i and j, i = j
    included, of ``T^2 KL(softmax(ensemble_j / T) || softmax(z_i / T))``, z_i the logits of the
    network itself, the ensemble detached. Means over this process's images.

    The aggregators learn from ``ce`` alone, so ``ce`` needs a weight. They are trained with the
    students, kept for resuming, and part of no network. The term reads
    ``on=['stages', 'stage_logits']``.

    Args:
        peer_channels: Of each network, the lengths of its stages' embeddings, all equal, and those
            of their logits; filled in by the cohort.
        temperature: T.

    Raises:
        ConfigError: If an argument is out of range, or a network has not several stages.
    """

    mutual = True
    needs = ('labels',)
    parts = ('ce', 'kd')

    def __init__(
        self,
        peer_channels: Sequence[tuple[Sequence[int], Sequence[int]]],
        temperature: float = 3.0,
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        widths = [channels[0] for channels in peer_channels]
        check_stages(widths)
        classes = {number for channels in peer_channels for number in channels[1]}
        if len(classes) > 1 or any(len(d) != len(c) for d, c in peer_channels):
            raise ConfigError(
                'the logits of all stages are mixed and compared',
                key='peer_channels',
                got=[tuple(c) for _, c in peer_channels],
                expected='one number of classes, for each stage with an embedding',
            )
        self.temperature = temperature
        self.aggregators = nn.ModuleList(
            nn.Sequential(
                nn.Linear(sum(d), d[0]),
                nn.ReLU(inplace=True),
                nn.Linear(d[0], len(d)),
            )
            for d in widths
        )

    def check(self, peers: Sequence[StagesAndLogits]) -> None:
        """Refuse embeddings that are not pooled, and logits of different shapes or of one class.

        Raises:
            ValueError: With the shapes.
        """
        name = type(self).__name__
        if any(
            isinstance(peer, Tensor)
            or len(peer) != 2
            or any(isinstance(x, Tensor) for x in peer)
            or len(peer[0]) != len(peer[1])
            for peer in peers
        ):
            raise ShapeError(
                f'{name} reads embeddings and logits of several stages', 'layers', peers=peers
            )
        check_pooled([x for embeddings, _ in peers for x in embeddings])
        logits = [z for _, stages in peers for z in stages]
        if any(z.ndim != 2 or z.shape != logits[0].shape for z in logits):
            raise ShapeError(f'{name} takes logits (B, C) of one shape', 'form', logits=logits)
        if logits[0].shape[1] == 1:
            raise ShapeError(
                f'{name} compares softmax distributions over classes, but the logits have one',
                'one class',
                'Give the heads two classes or more.',
                logits=logits,
            )

    def aggregate(self, peers: Sequence[StagesAndLogits]) -> list[Tensor]:
        """Embeddings and logits of the stages of N networks -> N ensembles (B, C).

        At least float32 under any autocast, and attached to all stages; for evaluation, too.
        """
        mixed = []
        for aggregator, (embeddings, logits) in zip(self.aggregators, peers, strict=True):
            every = torch.stack([promote(z) for z in logits])  # S times (B, C) -> (S, B, C)
            with full_precision(every):
                # S times (B, d) -> (B, S * d) -> (B, S)
                shares = aggregator(torch.cat([promote(x) for x in embeddings], 1))
                mixed.append(gated_logits(every, shares))
        return mixed

    def forward(self, peers: Sequence[StagesAndLogits], labels: Tensor) -> dict[str, Tensor]:
        """Embeddings and logits of the stages of N networks, and labels (B,) -> two scalars.

        Raises:
            ValueError: As `check`.
        """
        self.check(peers)
        ensembles = self.aggregate(peers)
        ce = [F.cross_entropy(z, labels) for z in ensembles]
        kd = [
            kl_divergence(logits[-1], ensemble, self.temperature)
            for _, logits in peers
            for ensemble in ensembles
        ]
        return dict(ce=torch.stack(ce).sum(), kd=torch.stack(kd).sum())
