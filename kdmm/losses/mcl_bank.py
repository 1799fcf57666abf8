"""Mutual contrastive learning for large data sets (MCL, arXiv 2104.12565): banks of all images."""

from collections.abc import Sequence

from torch import Tensor

from kdmm.registry import MODELS

from ..functional import draw_columns, mutual_bank_contrast
from .bank import BankLoss
from .checks import check_count, check_positive
from .embedding import EmbeddingHeads, check_pooled


@MODELS.register_module()
class MCLBankLoss(BankLoss):
    """Contrast of N peers with a bank of embeddings each, a row for every training image.

    The authors' ImageNet form; see :func:`kdmm.functional.mutual_bank_contrast` for the four terms
    and where they depart from that code. For each image one positive and ``negatives`` images of
    other classes are drawn, with replacement, by a hash of step, place in the global batch and
    column, so any number of ranks draws the same ones. The loss is the mean over this process's
    images.

    Args:
        peer_channels: Channels of each peer's embedding.
        num_samples: Different images in the training set.
        negatives: K. The authors found 4096 similar.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.
        momentum: Share of its old value in a bank row that is written.
        dtype: Of the banks; ``'float16'`` or ``'bfloat16'`` for half the memory.
        dim: Channels of the embeddings that are compared.
        seed: Of the banks' start and of the draws.
        icl_self_positive: In ICL, whether an image's own embedding in the other network's bank is a
            positive, as in the authors' code; otherwise it is neither positive nor negative.

    Raises:
        ConfigError: If an argument is out of range, or there is no memory for the banks.
    """

    mutual = True
    parts = ('vcl', 'soft_vcl', 'icl', 'soft_icl')

    def __init__(
        self,
        peer_channels: Sequence[int],
        num_samples: int,
        negatives: int = 8192,
        tau: float = 0.07,
        temperature: float = 3.0,
        momentum: float = 0.5,
        dtype: str = 'float32',
        dim: int = 128,
        seed: int = 0,
        icl_self_positive: bool = True,
    ) -> None:
        super().__init__(len(peer_channels), num_samples, dim, momentum, dtype, seed)
        check_count(negatives=negatives)
        check_positive(tau=tau, temperature=temperature)
        self.negatives, self.tau, self.temperature = negatives, tau, temperature
        self.icl_self_positive = icl_self_positive
        self.heads = EmbeddingHeads(peer_channels, dim)

    def check(self, peers: Sequence[Tensor]) -> None:
        """Refuse features that are not pooled (`ValueError`)."""
        check_pooled(peers)

    def forward(
        self, peers: Sequence[Tensor], labels: Tensor, sample_ids: Tensor
    ) -> dict[str, Tensor]:
        """Embeddings (B, d_i) of N peers, classes (B,) and ids (B,) -> the four unweighted parts.

        In training the batch is kept for `after_step`, see `BankLoss`.

        Raises:
            ConfigError: If the training set was not seen, or an image is not in it.
        """
        rows, classes = self.rows_of(sample_ids, labels)
        noise = self.bank.noise(len(rows), 1 + self.negatives)  # (B, 1 + K)
        # own row, one of the class, K others: (B, 2 + K)
        index = draw_columns(self.samples.classes, rows, classes, noise)
        embeddings = self.heads(peers)  # (N, B, dim)
        terms = mutual_bank_contrast(
            embeddings,
            self.bank.rows,
            index,
            self.tau,
            self.temperature,
            self.icl_self_positive,
        )
        self.remember(rows, embeddings)
        return terms._asdict()
