"""Multi-view contrastive learning for online distillation (MCL-OKD, arXiv 2006.04093)."""

from collections.abc import Sequence

from torch import Tensor

from kdmm.registry import MODELS

from ..functional import mutual_noise_contrast
from .bank import BankNCELoss
from .embedding import check_pooled


@MODELS.register_module()
class MCLOKDLoss(BankNCELoss):
    """Contrast of the views that N branches have of an image, against a bank of each.

    A linear layer for each network gives unit embeddings. Those of network j are scored against the
    bank of each other network i at one positive and K negatives, ``<bank_i, v_j> / tau``, and the
    loss is the sum over ordered pairs (12 of four networks) of an NCE with a constant Z of its own,
    see :func:`kdmm.functional.mutual_noise_contrast`. Z is that of each batch, of the images of all
    ranks. An NCE is the mean over this process's images. The paper weighs the sum 0.025.

    Columns are drawn by a hash of step, place in the global batch and column, the same ones for all
    pairs and for any number of ranks. In the authors' code the banks are written in the forward
    pass, here after the backward pass; an image's own scores see the old rows in both.

    Args:
        peer_channels: Length of each network's pooled features.
        num_samples: n, different images in the training set.
        negatives: K, images of other classes. In the authors' runs 256 for ResNets and DenseNet on
            CIFAR-100, 16384 for VGG-16, HCGNet and ImageNet.
        tau: Temperature of the similarities. In the authors' ImageNet code 0.07.
        mode: ``'exact'``: the positive is the image itself. ``'relax'``: it is a random image of
            the class, maybe itself.
        replace: Whether a negative may be drawn twice. The authors draw different ones on
            CIFAR-100, and with replacement on ImageNet.
        eps: None for the exact NCE; 1e-7 for the authors' form, which adds it to denominators.
        momentum: Share of its old value in a bank row that is written.
        dtype: Of the banks; ``'float16'`` or ``'bfloat16'`` for half the memory.
        dim: Length of an embedding.
        seed: Of the banks' initial rows and of the draws.

    Raises:
        ConfigError: If an argument is out of range, or there is no memory for the banks.
    """

    mutual = True

    def __init__(
        self,
        peer_channels: Sequence[int],
        num_samples: int,
        negatives: int = 16384,
        tau: float = 0.1,
        mode: str = 'exact',
        replace: bool = True,
        eps: float | None = None,
        momentum: float = 0.5,
        dtype: str = 'float32',
        dim: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(
            peer_channels, num_samples, negatives, tau, mode, replace, eps, momentum, dtype, dim,
            seed,
        )  # fmt: skip

    def check(self, peers: Sequence[Tensor]) -> None:
        """Refuse features that are not pooled (`ValueError`)."""
        check_pooled(peers)

    def note(self) -> str:
        """Return what is scored."""
        return f'{self.negatives} negatives of {self.num_samples} images, for each pair of networks'

    def forward(self, peers: Sequence[Tensor], labels: Tensor, sample_ids: Tensor) -> Tensor:
        """Pooled features, N times (B, d_i), classes (B,) and ids (B,) -> a scalar.

        In training the batch is kept for `after_step`, see `BankLoss`.

        Raises:
            ConfigError: If the training set was not seen, or an image is not in it.
        """
        rows, classes = self.rows_of(sample_ids, labels)
        index = self.draw(rows, classes)  # (B, 1 + K)
        embeddings = self.heads(peers)  # (N, B, dim)
        # (N, N - 1), of each bank with each other network
        terms = mutual_noise_contrast(embeddings, self.bank.rows, index, self.tau, self.eps)
        self.remember(rows, embeddings)
        return terms.sum()
