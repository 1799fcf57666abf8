"""Mutual contrastive learning of a cohort, contrast within the batch (MCL, arXiv 2104.12565)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from ..functional import mutual_contrast, promote, world_size
from ..functional.collective import all_gather_cat, gather_with_grad
from ..functional.divergence import kl_divergence
from ..registry import MODELS
from ..renamed import renamed
from .base import DistillLoss
from .checks import check_choice, check_positive
from .embedding import EmbeddingHeads, check_pooled


@MODELS.register_module()
class MCLLoss(DistillLoss):
    """VCL, SoftVCL, ICL and SoftICL between all pairs of networks, on the images of all ranks.

    See `kdmm.functional.mutual_contrast`. The paper weighs the parts 0.1, 1, 0.1, 1. Images of one
    class must meet in a batch: use `kdmm.PKSampler`.

    Every rank compares the images of all ranks and sends gradients back to theirs, so W ranks learn
    what one would from the same images. The authors' code, for one process, has no such case.

    Args:
        peer_channels: Length of each network's pooled features; filled in by the cohort.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.
        dim: Length of an embedding.
        soft_include_diag: Let the soft distributions have the anchor's own column, as in the
            authors' code; the paper leaves it out.
        icl_self_positive: Let the same image's embedding in the other network be a positive of ICL.
            In the authors' in-batch code it is neither positive nor negative.
    """

    mutual = True
    needs = ('labels',)
    least_images = 2
    parts = ('vcl', 'soft_vcl', 'icl', 'soft_icl')

    def __init__(
        self,
        peer_channels: Sequence[int],
        tau: float = 0.1,
        temperature: float = 3.0,
        dim: int = 128,
        soft_include_diag: bool = True,
        icl_self_positive: bool = False,
    ) -> None:
        super().__init__()
        check_positive(tau=tau, temperature=temperature)
        self.heads = EmbeddingHeads(peer_channels, dim)
        self.tau, self.temperature = tau, temperature
        self.soft_include_diag, self.icl_self_positive = soft_include_diag, icl_self_positive
        self._compared = False

    def check(self, peers: Sequence[Tensor]) -> None:
        """Refuse features that are not pooled (`ValueError`)."""
        check_pooled(peers)

    def least_batch(self, rows: int) -> int:
        """As the base; the images of all ranks count."""
        return super().least_batch(rows * world_size())

    def forward(self, peers: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Pooled features, N times (B, channels), and labels (B,) -> four scalars.

        Raises:
            ValueError: As `check`, or if the first batch has one image on all ranks together.
        """
        rows = self.heads(peers).transpose(0, 1)  # (N, B, dim) -> (B, N, dim)
        # (B, N, dim) -> (G, N, dim), the images of all ranks -> (N, G, dim)
        rows = gather_with_grad(rows.contiguous()).transpose(0, 1)
        if rows.shape[1] == 1 and not self._compared:  # the rest of a data set may be one
            raise ShapeError(
                'MCLLoss contrasts the images of a batch with each other, and this one has a '
                'single image',
                'one image',
                'Give several images, or take MCLBankLoss.',
                peers=peers,
            )
        self._compared = True
        return mutual_contrast(
            rows,
            all_gather_cat(labels),  # (B,) -> (G,)
            self.tau,
            self.temperature,
            self.soft_include_diag,
            self.icl_self_positive,
        )._asdict()


@MODELS.register_module()
@renamed(tau='temperature')
class EnsembleKDLoss(DistillLoss):
    """Logit distillation from the mean of all networks' logits (MCL's logit term).

    ``sum over learners of T^2 KL(softmax(mean / T) || softmax(z_i / T))``, mean over images.

    With ``learners='all', target='others'`` it is the term of CL-ILR (arXiv 1805.11761), a cohort
    with ``trunk_gradient='mean'``.

    Args:
        temperature: T.
        learners: ``'all'``, ``'last'`` (the network at the last place, which is then the one to
            keep), or None: all of two networks, the last of more, as in the authors' CIFAR code.
        target: The mean of ``'all'`` networks' logits, or for each learner of the ``'others'``.
        detach: Give the networks no gradient through a target. In OKDDip's public code of CL-ILR
            they get it, in MCL-OKD's they do not.
        floor: Added to each probability of a target, in OKDDip's code 1e-7; it is then none.
    """

    mutual = True

    def __init__(
        self,
        temperature: float = 3.0,
        learners: str | None = None,
        target: str = 'all',
        detach: bool = True,
        floor: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice('learners', learners, ('all', 'last', None))
        check_choice('target', target, ('all', 'others'))
        check_positive(temperature=temperature)
        self.temperature, self.learners = temperature, learners
        self.target, self.detach, self.floor = target, detach, floor

    def check(self, peers: Sequence[Tensor]) -> None:
        """Refuse logits of different shapes, or of one class.

        Raises:
            ValueError: With all shapes.
        """
        same = all(isinstance(z, Tensor) and z.shape == peers[0].shape for z in peers)
        if not same:
            raise ShapeError('EnsembleKDLoss averages logits of one shape', 'form', peers=peers)
        if peers[0].shape[1] == 1:
            raise ShapeError(
                'EnsembleKDLoss compares softmax distributions over classes, but the logits have '
                'one, whatever the networks do',
                'one class',
                'Give the heads two classes or more.',
                peers=peers,
            )

    def forward(self, peers: Sequence[Tensor]) -> Tensor:
        """Logits, N times (B, C) or (B, C, h, w) -> a scalar."""
        self.check(peers)
        # N times (B, C, ...) -> (N, B, C, ...) -> (B, C, ...)
        every = torch.stack([promote(z.detach() if self.detach else z) for z in peers])
        mean = every.mean(0)
        all_learn = self.learners == 'all' or (self.learners is None and len(peers) == 2)
        values = []
        for place in range(len(peers)) if all_learn else [len(peers) - 1]:
            if self.target == 'others':
                mean = every[[other for other in range(len(peers)) if other != place]].mean(0)
            values.append(
                kl_divergence(
                    peers[place], mean, self.temperature, detach=self.detach, floor=self.floor
                )
            )
        return torch.stack(values).sum()
