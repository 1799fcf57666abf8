"""`BankLoss`, the base of losses with a memory bank of the training set."""

from typing import Any

import torch
from torch import Tensor

from kdmm.datasets.annotations import read_labels, read_sample_ids
from kdmm.errors import ConfigError

from ..functional import draw_distinct, draw_others, draw_own
from ..functional.blocks import block_elements, blocks
from ..memory import InstanceBank, SampleRows
from .base import Batch, DistillLoss
from .checks import check_choice

_DTYPES = ('float16', 'bfloat16', 'float32', 'float64')


class BankLoss(DistillLoss):
    """Base of losses that keep a row for every training image and network.

    A subclass finds the rows of a batch by `rows_of`, scores its embeddings against
    ``self.bank.rows``, and hands them to `remember`. The banks, a copy on every device, are equal
    on all ranks and saved with the run. One whose ``needs`` lack ``'labels'`` works on data without
    classes, and finds rows by ``self.samples.find_rows``.

    Args:
        networks: N, a bank each.
        num_samples: Different images in the training set.
        dim: Length of an embedding.
        momentum: Share of its old value in a bank row that is written.
        dtype: Of the banks; ``'float16'`` or ``'bfloat16'`` for half the memory.
        seed: Of the banks' initial rows and of the draws.

    Raises:
        ConfigError: If an argument is out of range, or there is no memory for the banks.
    """

    needs: tuple[str, ...] = ('labels', 'sample_ids')
    stateful = True

    def __init__(
        self,
        networks: int,
        num_samples: int,
        dim: int = 128,
        momentum: float = 0.5,
        dtype: str = 'float32',
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_choice('dtype', dtype, _DTYPES)
        self.bank = InstanceBank(
            networks, num_samples, dim, momentum, getattr(torch, dtype), seed, name
        )
        self.samples = SampleRows()

    def memory_bytes(self) -> int:
        """Return the memory of the banks."""
        return self.bank.memory_bytes()

    def see_dataset(self, dataset: Any) -> None:
        """Read ids and classes of the training set; to be called before each (resumed) training.

        Raises:
            ConfigError: If its images are not ``num_samples`` different ones with one class each,
                where classes are needed.
        """
        ids = torch.from_numpy(read_sample_ids(dataset, ''))
        labelled = 'labels' in self.needs
        self.samples.fill(ids, torch.from_numpy(read_labels(dataset, '')) if labelled else None)
        expected, found = self.bank.rows.shape[1], len(self.samples)
        if found != expected:
            raise ConfigError(
                f'the training set has {found} different images',
                key='num_samples',
                got=expected,
                fix=f'Set num_samples={found}.',
            )

    def rows_of(self, sample_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Find the bank rows (B,) and classes (B,) of images by their ids (B,).

        Raises:
            ConfigError: If the training set was not seen, or an image is not in it.
        """
        return self.samples.find(sample_ids, labels)

    def require_others(self, dataset: Any, negatives: int) -> None:
        """Refuse a class that leaves less than ``negatives`` different images of other classes.

        Raises:
            ConfigError: Names the class of the training set that leaves the fewest.
        """
        size = self.samples.classes.size
        largest, left = int(size.argmax()), int(len(self.samples) - size.max())
        if left < negatives:
            names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
            name = repr(names[largest]) if largest < len(names) else largest
            raise ConfigError(
                f'class {name} leaves {left} images of other classes to draw different ones from',
                key='negatives',
                got=negatives,
                fix='Lower it, or set replace=True.',
            )

    def draw_contrast(
        self, rows: Tensor, classes: Tensor, negatives: int, relax: bool, replace: bool
    ) -> Tensor:
        """Draw a positive and negatives for each image; any number of ranks draws the same ones.

        Args:
            rows: Bank rows (B,) of the images.
            classes: Their classes (B,).
            negatives: K, rows of other classes.
            relax: Whether the positive is any image of the class, or the image itself.
            replace: Whether a negative may be drawn twice.

        Returns:
            Rows (B, 1 + K), the positive first.
        """
        noise = self.bank.noise(len(rows), 1 + negatives * replace)
        positive = draw_own(self.samples.classes, classes, noise[:, :1]) if relax else rows[:, None]
        if replace:
            others = draw_others(self.samples.classes, classes, noise[:, 1:])
            return torch.cat([positive, others], 1)
        distinct = []
        total = len(self.samples)
        for part in blocks(len(rows), max(block_elements(noise) // total, 1)):
            keys = self.bank.noise(len(rows), 1 + total, part)[:, 1:]  # (b, n)
            distinct.append(draw_distinct(self.samples.classes, classes[part], keys, negatives))
        return torch.cat([positive, torch.cat(distinct)], 1)

    def remember(self, rows: Tensor, embeddings: Tensor) -> None:
        """Keep embeddings (N, B, dim) for bank rows (B,) until `after_step`, in training only."""
        if self.training and torch.is_grad_enabled():
            self.bank.remember(rows, embeddings)

    def after_step(self, batch: Batch) -> None:
        """Write the embeddings that were kept since the last call."""
        self.bank.after_step()
