"""Contrastive representation distillation (CRD, arXiv 1910.10699): two heads, two banks, an NCE."""

from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError, ShapeError
from kdmm.registry import MODELS

from ..functional import (
    cross_bank_scores,
    log_partition,
    noise_contrast,
    promote,
    scores_all_rows,
)
from .bank import BankNCELoss
from .checks import check_choice
from .embedding import check_pooled


@MODELS.register_module()
class CRDLoss(BankNCELoss):
    """Contrast of a student with a teacher against banks of both networks' past embeddings.

    One linear layer for each network gives unit embeddings; both layers are trained with the
    student, the teacher is not. The student's embedding of an image is scored against the teacher's
    bank at one positive and K negatives, the teacher's against the student's bank, and an NCE
    (:func:`kdmm.functional.noise_contrast`) of each is the loss. Columns are drawn by a hash of
    step, place in the global batch and column, so any number of ranks draws the same ones. The loss
    is the sum of both NCE, each a mean over this process's images; the paper weighs it 0.8.

    Where this differs from the authors' code: Z is that of the images of all ranks, and constant
    without being part of the graph; banks are written after the backward pass; negatives are
    drawn on the device, with replacement by default.

    Args:
        student_channels: Length of the student's pooled features.
        teacher_channels: Length of the teacher's.
        num_samples: n, different images in the training set.
        negatives: K.
        tau: Temperature of the similarities.
        mode: ``'exact'``: the positive is the image itself, negatives are of other classes.
            ``'relax'``: the positive is a random image of the class, maybe itself. ``'unlabelled'``
            needs no classes: the positive is the image itself, and negatives are of all images,
            which may be of its class or itself.
        percent: Share of the other-class images that a class's negatives are drawn from, a fixed
            random subset for each class.
        replace: Whether an image may be drawn twice. The authors draw different ones as long as
            there are K; without replacement n numbers are compared for each image.
        z_mode: ``'first'``: Z is that of the first batch from then on. ``'batch'``: of each batch.
        eps: None for the exact NCE; 1e-7 for the authors' form, which adds it to denominators.
        momentum: Share of its old value in a bank row that is written.
        dtype: Of the banks; ``'float16'`` or ``'bfloat16'`` for half the memory.
        dim: Length of an embedding.
        seed: Of the banks' initial rows, the draws and the subsets.
        dense: Whether an image is scored against all n rows and the drawn ones are picked, or the
            drawn rows are fetched; by default by n, K and device, see
            :func:`kdmm.functional.bank_scores`. The values are the same.

    Raises:
        ConfigError: If an argument is out of range, or there is no memory for the banks.
    """

    modes = ('exact', 'relax', 'unlabelled')
    log_z: Tensor
    z_known: Tensor

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_samples: int,
        negatives: int = 16384,
        tau: float = 0.07,
        mode: str = 'exact',
        percent: float = 1.0,
        replace: bool = True,
        z_mode: str = 'first',
        eps: float | None = None,
        momentum: float = 0.5,
        dtype: str = 'float32',
        dim: int = 128,
        seed: int = 0,
        dense: bool | None = None,
    ) -> None:
        check_choice('z_mode', z_mode, ('first', 'batch'))
        channels = (student_channels, teacher_channels)
        super().__init__(
            channels, num_samples, negatives, tau, mode, replace, eps, momentum, dtype, dim, seed,
            percent,
        )  # fmt: skip
        self.z_mode, self.dense = z_mode, dense
        self.register_buffer('log_z', torch.zeros(2))  # of student's and of teacher's anchors
        self.register_buffer('z_known', torch.tensor(False))
        self._frozen = False  # z_known, without asking the device

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features that are not pooled, or of different batches (`ValueError`)."""
        check_pooled((student, teacher))
        if len(student) != len(teacher):
            pair: dict[str, Any] = dict(student=student, teacher=teacher)
            raise ShapeError('CRDLoss: the numbers of images differ', 'images', **pair)

    def note(self) -> str:
        """Return how scores are computed, and of what."""
        how = 'scored against all rows' if self._is_dense() else 'whose rows are fetched in blocks'
        return f'{self.negatives} negatives of {self.num_samples} images, {how}'

    def forward(
        self, student: Tensor, teacher: Tensor, sample_ids: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Compute the sum of both NCE.

        In training the batch is kept for `after_step`, see `BankLoss`.

        Args:
            student: Pooled features (B, C_s).
            teacher: Pooled features (B, C_t), constants.
            sample_ids: (B,).
            labels: Classes (B,), unless ``mode='unlabelled'``.

        Raises:
            ConfigError: If the training set was not seen, or an image is not in it.
            ShapeError: As `check`.
        """
        self.check(student, teacher)
        classes: Tensor | None = None
        if self.mode == 'unlabelled':
            rows = self.samples.find_rows(sample_ids)
        elif labels is None:
            raise ConfigError('it needs the classes of a batch', key='mode', got=self.mode)
        else:
            rows, classes = self.rows_of(sample_ids, labels)
        index = self.draw(rows, classes)  # (B, 1 + K)
        embeddings = self.heads((student, promote(teacher.detach())))  # (2, B, dim)
        # (2, B, dim), (2, n, dim), (B, 1 + K) -> (2, B, 1 + K)
        scores = cross_bank_scores(embeddings, self.bank.rows, index, self.tau, self.dense)
        terms = noise_contrast(scores, self._log_z(scores), self.num_samples, self.eps)
        self.logged = dict(zip(('student', 'teacher'), terms.detach(), strict=True))
        self.remember(rows, embeddings)
        return terms.sum()

    def _log_z(self, scores: Tensor) -> Tensor:
        """``log Z`` (2,) of scores (2, B, 1 + K), or that of the first batch."""
        if self.z_mode == 'first' and not self._frozen:
            self._frozen = bool(self.z_known)  # once in a run
        if self._frozen:
            return self.log_z
        found = log_partition(scores, self.num_samples)
        if self.z_mode == 'first' and self.training and torch.is_grad_enabled():
            self.log_z.copy_(found)
            self.z_known.fill_(True)
            self._frozen = True
        return found

    def _is_dense(self) -> bool:
        drawn = 1 + self.negatives
        default = scores_all_rows(self.bank.rows.device, self.num_samples, drawn)
        return default if self.dense is None else self.dense

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._frozen = False
