"""Layer-wise mutual contrastive learning of a cohort (L-MCL, arXiv 2207.11518)."""

from collections.abc import Sequence

from torch import Tensor

from kdmm.errors import ShapeError
from kdmm.registry import MODELS

from ..functional import draw_columns, layer_bank_contrast, layer_contrast, world_size
from ..functional.collective import all_gather_cat, gather_with_grad
from .bank import BankLoss
from .checks import check_choice, check_count, check_positive
from .embedding import EmbeddingHeads
from .layer_matching import MatchedLayers, Stages


def _flat(peers: Sequence[Stages]) -> list[Tensor]:
    """Embeddings of all networks, one network behind the other."""
    return [x for stages in peers for x in stages]


@MODELS.register_module()
class LMCLLoss(MatchedLayers):
    """VCL, SoftVCL, ICL and SoftICL between all pairs of stages of different networks.

    A pair of stages weighs a number for each image, see `LayerMatching`. The four terms are those
    of `kdmm.functional.layer_contrast`; the paper weighs them 0.1, 1, 0.1, 1. Images of one class
    must meet in a batch: use `kdmm.PKSampler`. The term reads ``on='stages'``.

    By default every rank compares the images of all ranks and sends gradients back to theirs, as
    `MCLLoss` does, so that W ranks learn what one would from the same images. With
    ``scope='process'`` a rank compares its own images alone, as the authors' code for ImageNet
    does; what is learnt then depends on the number of ranks.

    Args:
        peer_channels: Of each network, the lengths of its stages' embeddings, all equal; filled in
            by the cohort.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.
        dim: Length of an embedding.
        double_count: Count each pair of stages in both orders of its networks, as the authors'
            code: the terms are twice as large.
        matching: ``'learned'`` by a meta-optimisation, which needs an objective that runs it;
            ``'uniform'``: every pair weighs 0.5, what orthogonal projections give;
            ``'one_to_one'``: stages at the same place weigh 1, others 0.
        scope: ``'global'`` or ``'process'``: whose images are compared.

    Raises:
        ConfigError: If an argument is out of range, or there are no layers to match.
    """

    needs = ('labels',)
    least_images = 2

    def __init__(
        self,
        peer_channels: Sequence[Sequence[int]],
        tau: float = 0.1,
        temperature: float = 3.0,
        dim: int = 128,
        double_count: bool = True,
        matching: str = 'learned',
        scope: str = 'global',
    ) -> None:
        super().__init__()
        check_positive(tau=tau, temperature=temperature)
        check_choice('scope', scope, ('global', 'process'))
        self.match_layers(peer_channels, matching, double_count)
        self.heads = EmbeddingHeads([x for widths in peer_channels for x in widths], dim)
        self.tau, self.temperature, self.scope = tau, temperature, scope
        self._compared = False

    def least_batch(self, rows: int) -> int:
        """As the base; with ``scope='global'`` the images of all ranks count."""
        return super().least_batch(rows * (world_size() if self.scope == 'global' else 1))

    def forward(self, peers: Sequence[Stages], labels: Tensor) -> dict[str, Tensor]:
        """Stages of N networks, S_i times (B, d_i), and labels (B,) -> four scalars.

        Raises:
            ValueError: As `check`, or if the first batch has one image.
        """
        self.check(peers)
        weights = self.stage_weights(peers)  # (A, A, B) or (A, A, 1)
        rows = self.heads(_flat(peers))  # (A, B, dim)
        if self.scope == 'global':
            labels = all_gather_cat(labels)  # (B,) -> (G,), the images of all ranks
            # images first: (A, B, dim) -> (B, A, dim) -> (G, A, dim) -> (A, G, dim)
            rows = gather_with_grad(rows.transpose(0, 1).contiguous()).transpose(0, 1)
            if self.matching is not None:
                # (A, A, B) -> (B, A, A) -> (G, A, A) -> (A, A, G)
                weights = gather_with_grad(weights.permute(2, 0, 1).contiguous()).permute(1, 2, 0)
        if rows.shape[1] == 1 and not self._compared:  # the rest of a data set may be one
            raise ShapeError(
                'LMCLLoss contrasts the images of a batch with each other, and this one has a '
                'single image',
                'one image',
                'Give several images, or take LMCLBankLoss.',
                peers=peers,
            )
        self._compared = True
        if self.keeps:
            self.note_matching(weights)
        pairs = self.both_orders(weights)
        terms = layer_contrast(rows, labels, pairs, self.stages, self.tau, self.temperature)
        return terms._asdict()


@MODELS.register_module()
class LMCLBankLoss(MatchedLayers, BankLoss):
    """L-MCL against a bank a network, with a row for every training image: the ImageNet form.

    A bank is written with the embedding of its network's last stage only; the embeddings of all
    stages are compared with the banks, see `kdmm.functional.layer_bank_contrast`. Columns are those
    of `MCLBankLoss`. The loss is the mean over this process's images. The paper weighs the parts
    0.01, 1, 0.01, 1. The term reads ``on='stages'``.

    Inside `differentiate_matching` the columns are those of the last training step, and nothing is
    kept for the banks.

    Args:
        peer_channels: Of each network, the lengths of its stages' embeddings, all equal; filled in
            by the cohort.
        num_samples: Different images in the training set.
        negatives: K, images of other classes.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.
        momentum: Share of its old value in a bank row that is written.
        dtype: Of the banks; ``'float16'`` or ``'bfloat16'`` for half the memory.
        dim: Length of an embedding.
        seed: Of the banks' initial rows and of the draws.
        double_count: See `LMCLLoss`.
        matching: See `LMCLLoss`.
        published_bank: Compare in VCL and SoftVCL both networks of a pair with the bank of one, as
            the authors' code, by its looks a slip; otherwise each with its own.

    Raises:
        ConfigError: If an argument is out of range, there are no layers to match, or there is no
            memory for the banks.
    """

    def __init__(
        self,
        peer_channels: Sequence[Sequence[int]],
        num_samples: int,
        negatives: int = 8192,
        tau: float = 0.07,
        temperature: float = 3.0,
        momentum: float = 0.5,
        dtype: str = 'float32',
        dim: int = 128,
        seed: int = 0,
        double_count: bool = True,
        matching: str = 'learned',
        published_bank: bool = False,
    ) -> None:
        BankLoss.__init__(self, len(peer_channels), num_samples, dim, momentum, dtype, seed)
        check_count(negatives=negatives)
        check_positive(tau=tau, temperature=temperature)
        self.match_layers(peer_channels, matching, double_count)
        self.heads = EmbeddingHeads([x for widths in peer_channels for x in widths], dim)
        self.negatives, self.tau, self.temperature = negatives, tau, temperature
        self.published_bank = published_bank
        self._drawn: Tensor | None = None

    def forward(
        self, peers: Sequence[Stages], labels: Tensor, sample_ids: Tensor
    ) -> dict[str, Tensor]:
        """Stages of N networks, S_i times (B, d_i), classes and ids (B,) -> four scalars.

        In training the batch is kept for `after_step`, see `BankLoss`.

        Raises:
            ValueError: As `check`.
            ConfigError: If the training set was not seen, or an image is not in it.
        """
        self.check(peers)
        rows, classes = self.rows_of(sample_ids, labels)
        index = self._columns(rows, classes)  # (B, 2 + K)
        weights = self.stage_weights(peers)  # (A, A, B) or (A, A, 1)
        embeddings = self.heads(_flat(peers))  # (A, B, dim)
        terms = layer_bank_contrast(
            embeddings,
            self.bank.rows,
            index,
            self.both_orders(weights),
            self.stages,
            self.tau,
            self.temperature,
            self.published_bank,
        )
        if self.keeps:
            self.note_matching(weights)
            ends = [sum(self.stages[: i + 1]) - 1 for i in range(len(self.stages))]
            self.remember(rows, embeddings[ends])  # (N, B, dim)
        return terms._asdict()

    def _columns(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Draw bank rows (B, 2 + K); in the meta-optimisation those of the training step again."""
        if self._differentiating and self._drawn is not None and len(self._drawn) == len(rows):
            return self._drawn
        noise = self.bank.noise(len(rows), 1 + self.negatives)  # (B, 1 + K)
        index = draw_columns(self.samples.classes, rows, classes, noise)
        if self.keeps and self.needs_meta:
            self._drawn = index
        return index
