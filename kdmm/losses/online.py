"""Online distillation between branches of one network: ONE and OKDDip.

CL-ILR (arXiv 1805.11761) is `EnsembleKDLoss` with ``target='others'``, in a cohort with
``trunk_gradient='mean'``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmm.errors import ConfigError, ShapeError

from ..functional import attended_logits, full_precision, gated_logits, kl_divergence, promote
from ..registry import MODELS
from .base import DistillLoss
from .checks import check_positive

#: Of a branch: logits (B, C), and a feature of the network.
Pair = tuple[Tensor, Tensor]


@MODELS.register_module()
class ONELoss(DistillLoss):
    """An ensemble of the branches, mixed by a gate on their trunk (ONE, arXiv 1806.04606).

    With ``gate = ReLU(BN(Linear(pooled trunk)))`` and ``z_e = sum_i softmax(gate)_i z_i``, the part
    ``ce`` is the cross entropy of ``z_e`` with the labels, ``kd`` the sum over branches of
    ``T^2 KL(softmax(z_e / T) || softmax(z_i / T))``; means over this process's images. The branches
    learn the labels by themselves. The gate learns from ``ce`` alone, so ``ce`` needs a weight.

    The term reads two taps, the logits and the trunk's output: the input of the first module behind
    the trunk. The gate's BN always has the statistics of the batch. The gate is trained with the
    student and kept for resuming, and is part of no network: any branch may be deployed.

    Args:
        peer_channels: Of each branch, the classes and the channels of the trunk.
        temperature: T.
        detach: Let no gradient through the target of ``kd``, as in the paper. Without it, as in the
            public code of OKDDip, the value is the same, and the ensemble learns from its students.
        floor: Added to each probability of the target, in that code 1e-7; it is then none.
    """

    mutual = True
    needs = ('labels',)
    parts = ('ce', 'kd')

    def __init__(
        self,
        peer_channels: Sequence[tuple[int, int]],
        temperature: float = 3.0,
        detach: bool = True,
        floor: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature, self.detach, self.floor = temperature, detach, floor
        self.gate = nn.Linear(peer_channels[0][1], len(peer_channels))
        self.norm = nn.BatchNorm1d(len(peer_channels), track_running_stats=False)
        self._checked = False

    def check(self, peers: Sequence[Pair]) -> None:
        """Refuse logits of different shapes, and trunks that are not (B, C) or (B, C, h, w).

        Raises:
            ValueError: With all shapes.
        """
        logits, trunks = _columns(type(self).__name__, peers)
        if any(x.ndim not in (2, 4) or x.shape != trunks[0].shape for x in trunks):
            raise ShapeError('ONELoss reads one trunk, (B, C) or (B, C, h, w)', trunks=trunks)

    def forward(self, peers: Sequence[Pair], labels: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) and trunk, of M branches, and labels (B,) -> two scalars.

        Raises:
            ValueError: As `check`; in the first step, if the branches have not one trunk.
        """
        self.check(peers)
        logits, trunks = _columns(type(self).__name__, peers)
        self._check_one_trunk(trunks)
        with full_precision(trunks[0]):
            every = torch.stack([promote(z) for z in logits])  # M times (B, C) -> (M, B, C)
            together = gated_logits(every, self._gate_scores(trunks[0]))
            ce = F.cross_entropy(together, labels)
            kd = [self._kl(z, together) for z in every]
        return dict(ce=ce, kd=torch.stack(kd).sum())

    def _kl(self, logits: Tensor, target: Tensor) -> Tensor:
        return kl_divergence(logits, target, self.temperature, detach=self.detach, floor=self.floor)

    def _gate_scores(self, trunk: Tensor) -> Tensor:
        """The gate before its softmax, (B, M)."""
        trunk = promote(trunk)
        pooled = trunk if trunk.ndim == 2 else trunk.mean((2, 3))  # (B, C, h, w) -> (B, C)
        found = self.gate(pooled)  # (B, M)
        if len(found) == 1:  # it is its own mean, and BN leaves the bias
            return (0 * found * self.norm.weight + self.norm.bias).relu()
        return self.norm(found).relu()

    def _check_one_trunk(self, trunks: Sequence[Tensor]) -> None:
        if not self._checked and not all(torch.equal(x, trunks[0]) for x in trunks):
            raise ConfigError(
                'the gate of ONELoss reads what all networks share, and its tap differs between '
                'them',
                fix="Name the shared modules in kd.trunk, and tap the input ('.in') of the first "
                'module behind them.',
            )
        self._checked = True


@MODELS.register_module()
class OKDDipLoss(DistillLoss):
    """Peers whose targets are mixed by attention, and a leader (OKDDip, arXiv 1912.00350).

    The last network is the leader, and the one to keep; the others are the peers. Part ``peers`` is
    the sum over peers of ``T^2 KL(softmax(target_m / T) || softmax(z_m / T))``, see
    `kdmm.functional.attended_logits`; ``leader`` is the leader's divergence from the mean of the
    peers' logits. Means over this process's images. The networks learn the labels by themselves.

    Queries and keys, linear in the pooled features and shared by the peers, learn **through the
    targets of** ``peers``, so these are not detached, and ``peers`` needs a weight. They are
    trained with the student, kept for resuming and part of no network.

    Args:
        peer_channels: Of each network, the classes and the length of its pooled features.
        temperature: T.
        detach_values: Let the gradient of a target reach queries and keys alone, not the logits
            that are mixed. In the public code those get it, too, also from the leader's term.
        floor: Added to each probability of a target, in that code 1e-7; it is then none.
    """

    mutual = True
    parts = ('peers', 'leader')

    def __init__(
        self,
        peer_channels: Sequence[tuple[int, int]],
        temperature: float = 3.0,
        detach_values: bool = False,
        floor: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature, self.detach_values, self.floor = temperature, detach_values, floor
        widths = [width for _, width in peer_channels[:-1]]
        if len(widths) < 2:
            raise ConfigError(
                'OKDDipLoss has peers that learn from each other, and a leader',
                got=f'{len(peer_channels)} networks',
                expected='3 or more',
                fix='Raise kd.peers.',
            )
        if len(set(widths)) > 1 or widths[0] < 8:
            raise ConfigError(
                'queries and keys are shared, an eighth as long as the pooled features',
                key='peer_channels',
                got=widths,
                expected='one length of 8 or more',
            )
        self.query = nn.Linear(widths[0], widths[0] // 8, bias=False)
        self.key = nn.Linear(widths[0], widths[0] // 8, bias=False)

    def check(self, peers: Sequence[Pair]) -> None:
        """Refuse logits of different shapes, and features that are not pooled.

        Raises:
            ValueError: With all shapes.
        """
        _, features = _columns(type(self).__name__, peers)
        if any(x.ndim != 2 for x in features):
            raise ShapeError(
                'OKDDipLoss compares pooled features (B, channels)', 'unpooled', features=features
            )

    def forward(self, peers: Sequence[Pair]) -> dict[str, Tensor]:
        """Logits (B, C) and pooled features (B, d) of the peers and the leader -> two scalars."""
        self.check(peers)
        logits, features = _columns(type(self).__name__, peers)
        with full_precision(features[0]):
            pooled = torch.stack([promote(x) for x in features[:-1]])  # (M, B, d)
            mixed = torch.stack([promote(z) for z in logits[:-1]])  # (M, B, C)
            mixed = mixed.detach() if self.detach_values else mixed
            targets = attended_logits(mixed, self.query(pooled), self.key(pooled))
            values = [self._kl(z, target) for z, target in zip(logits, targets, strict=False)]
            return dict(
                peers=torch.stack(values).sum(), leader=self._kl(logits[-1], mixed.mean(0))
            )  # fmt: skip

    def _kl(self, logits: Tensor, target: Tensor) -> Tensor:
        return kl_divergence(logits, target, self.temperature, detach=False, floor=self.floor)


def _columns(name: str, peers: Sequence[Pair]) -> tuple[list[Tensor], list[Tensor]]:
    """The networks' logits, and their features."""
    if any(not isinstance(pair, tuple) or len(pair) != 2 for pair in peers):
        raise ShapeError(f'{name} reads two taps, logits and a feature', peers=peers)
    logits, features = (list(column) for column in zip(*peers, strict=True))
    if any(z.ndim != 2 or z.shape != logits[0].shape for z in logits):
        raise ShapeError(f'{name} takes logits (B, C) of one shape', logits=logits)
    return logits, features
