"""`BankLoss`, the base of losses with a memory bank of the training set, and `BankNCELoss`."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor

from kdmm.datasets.annotations import read_labels, read_sample_ids
from kdmm.errors import ConfigError, listed

from ..functional import (
    ShareIndex,
    draw_distinct,
    draw_others,
    draw_own,
    draw_share,
    index_shares,
)
from ..functional.blocks import block_elements, blocks
from ..memory import InstanceBank, SampleRows
from .base import Batch, DistillLoss
from .checks import check_choice, check_count, check_positive
from .embedding import EmbeddingHeads

#: What to do where a run would go on with rows of other images.
_REMEDY = (
    'Resume with the data set that the run began with, or start a new run from the student in this '
    'file: load_from=<this file>, without --resume'
)
_DTYPES = ('float16', 'bfloat16', 'float32', 'float64')


class BankLoss(DistillLoss):
    """Base of losses that keep a row for every training image and network.

    A subclass finds the rows of a batch by `rows_of`, scores its embeddings against
    ``self.bank.rows``, and hands them to `remember`. The banks, a copy on every device, are equal
    on all ranks and saved with the run. One whose ``needs`` lack ``'labels'`` works on data without
    classes, and finds rows by ``self.samples.find_rows``.

    Buffer: ``fingerprint`` (2,) int64, of the ids and of the classes that the rows belong to, see
    `SampleRows.fingerprint`; 0 where they are not known. It is saved, so that a run goes on with
    the same images only.

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
    fingerprint: Tensor

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
        self.register_buffer('fingerprint', torch.zeros(2, dtype=torch.long))

    def memory_bytes(self) -> int:
        """Return the memory of the banks."""
        return self.bank.memory_bytes()

    def see_dataset(self, dataset: Any) -> None:
        """Read ids and classes of the training set; to be called before each (resumed) training.

        Raises:
            ConfigError: If its images are not ``num_samples`` different ones with one class each,
                where classes are needed; or if the banks were filled from others.
        """
        ids = torch.from_numpy(read_sample_ids(dataset, ''))
        labelled = 'labels' in self.needs
        self.samples.fill(ids, torch.from_numpy(read_labels(dataset, '')) if labelled else None)
        expected, found = self.bank.rows.shape[1], len(self.samples)
        if found != expected:
            filled = f', the banks were filled from {expected}' if self.bank.step else ''
            raise ConfigError(
                f'the training set has {found} different images{filled}',
                key='num_samples',
                got=expected,
                fix=f'{_REMEDY}, and num_samples={found}.'
                if filled
                else f'Set num_samples={found}.',
            )
        self._compare_with_banks()

    def _compare_with_banks(self) -> None:
        """Refuse another training set than that of the rows written so far, and remember it.

        Raises:
            ConfigError: Says what differs, the ids or the classes.
        """
        before, now = self.fingerprint.tolist(), list(self.samples.fingerprint())
        for what, old, new in zip(('sample_idx', 'classes'), before, now, strict=True):
            if self.bank.step and old and new and old != new:
                raise ConfigError(
                    f'the {what} of the images of the training set are not those that the banks '
                    f'were filled from, though there are as many, {len(self.samples)}',
                    fix=f'{_REMEDY}.',
                )
        known = [new or old for old, new in zip(before, now, strict=True)]
        self.fingerprint.copy_(torch.tensor(known))

    def upgrade(self, state: dict[str, Any], prefix: str) -> None:
        """Take the state of a version without a fingerprint, and refuse banks of other sizes.

        Raises:
            ConfigError: If the banks had another number of images.
        """
        rows = state.get(f'{prefix}bank.rows')
        if not isinstance(rows, Tensor) or rows.ndim != 3:
            return  # refused where it is loaded
        expected = self.bank.rows.shape[1]
        if rows.shape[1] != expected:
            raise ConfigError(
                f'the banks of the resumed run were filled from {rows.shape[1]} images',
                key='num_samples',
                got=expected,
                fix=f'{_REMEDY}.',
            )
        state.setdefault(f'{prefix}fingerprint', torch.zeros_like(self.fingerprint))

    def rows_of(self, sample_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Find the bank rows (B,) and classes (B,) of images by their ids (B,).

        Raises:
            ConfigError: If the training set was not seen, or an image is not in it.
        """
        return self.samples.find(sample_ids, labels)

    def remember(self, rows: Tensor, embeddings: Tensor) -> None:
        """Keep embeddings (N, B, dim) for bank rows (B,) until `after_step`, in training only."""
        if self.training and torch.is_grad_enabled():
            self.bank.remember(rows, embeddings)

    def after_step(self, batch: Batch) -> None:
        """Write the embeddings that were kept since the last call."""
        self.bank.after_step()


class BankNCELoss(BankLoss):
    """Base of losses that contrast a positive with K negatives of a bank by an NCE.

    A linear layer for each network gives unit embeddings. Columns are drawn by a hash of step,
    place in the global batch and column, so any number of ranks draws the same ones.

    Args:
        channels: Length of each network's pooled features; a bank each.
        num_samples: n, different images in the training set.
        negatives: K.
        tau: Temperature of the similarities.
        mode: One of `modes`. ``'exact'``: the positive is the image itself, negatives are of other
            classes. ``'relax'``: the positive is a random image of the class, maybe itself.
            ``'unlabelled'`` needs no classes: the positive is the image itself, and negatives are
            of all images, which may be of its class or itself.
        replace: Whether an image may be drawn twice; without replacement n numbers are compared
            for each image.
        eps: None for the exact NCE, or the number that the authors add to its denominators.
        momentum: Share of its old value in a bank row that is written.
        dtype: Of the banks.
        dim: Length of an embedding.
        seed: Of the banks' initial rows, the draws and the subsets.
        percent: Share of the other-class images that a class's negatives are drawn from, a fixed
            random subset for each class.

    Raises:
        ConfigError: If an argument is out of range, or there is no memory for the banks.
    """

    #: Modes that this loss has.
    modes: ClassVar[tuple[str, ...]] = ('exact', 'relax')

    def __init__(
        self,
        channels: Sequence[int],
        num_samples: int,
        negatives: int,
        tau: float,
        mode: str,
        replace: bool,
        eps: float | None,
        momentum: float,
        dtype: str,
        dim: int,
        seed: int,
        percent: float = 1.0,
    ) -> None:
        check_count(negatives=negatives)
        check_positive(tau=tau)
        check_choice('mode', mode, self.modes)
        if not 0 < percent <= 1:
            raise ConfigError(key='percent', got=percent, expected='a share in (0, 1]')
        if eps is not None and not 0 <= eps < 1:
            raise ConfigError(key='eps', got=eps, expected='None, or a small number such as 1e-7')
        for key, value, default in (('percent', percent, 1.0), ('replace', replace, True)):
            if mode == 'unlabelled' and value != default:
                raise ConfigError(
                    "mode='unlabelled' draws from all images, with replacement", key=key, got=value
                )
        super().__init__(len(channels), num_samples, dim, momentum, dtype, seed)
        self.num_samples, self.negatives, self.tau, self.eps = num_samples, negatives, tau, eps
        self.mode, self.replace, self.percent, self.seed = mode, replace, percent, seed
        if mode == 'unlabelled':
            self.needs = ('sample_ids',)
        self.heads = EmbeddingHeads(channels, dim, linear=True)
        self._shares: ShareIndex | None = None

    def see_dataset(self, dataset: Any) -> None:
        """Read ids and, unless ``mode='unlabelled'``, classes of the training set.

        Raises:
            ConfigError: As `BankLoss`; for a class that leaves less than K different negatives,
                which is named.
        """
        super().see_dataset(dataset)
        if self.mode == 'unlabelled':
            return
        facts = getattr(dataset, 'metainfo', None)
        names = (facts.get('classes') if isinstance(facts, Mapping) else None) or ()
        size = self.samples.classes.size.cpu()
        left = self.num_samples - size  # (C,)
        if self.percent < 1:
            self._shares = index_shares(self.samples.labels, self.percent, self.seed)
            left = self._shares.members
        least = int(left.argmin())
        if not self.replace and left[least] < self.negatives:
            raise ConfigError(
                f'class {_name(names, least)} leaves {int(left[least])} images of other classes '
                'to draw different ones from',
                key='negatives',
                got=self.negatives,
                fix='Lower it, or set replace=True.',
            )
        single = (size == 1).nonzero().flatten().tolist()
        if single and self.mode == 'relax':
            which = listed(_name(names, label) for label in single)
            print_log(
                f'{type(self).__name__}: classes of one image, which is its own positive: {which}',
                'current',
            )

    def draw(self, rows: Tensor, classes: Tensor | None) -> Tensor:
        """Draw the columns (B, 1 + K) of this batch: the positive, then the negatives.

        Args:
            rows: Bank rows (B,) of the images.
            classes: Their classes (B,), None if they are not known.
        """
        noise = self.bank.noise(len(rows), 1 + self.negatives * self.replace)
        if classes is None:
            negatives = (noise[:, 1:] * self.num_samples) >> 32
            return torch.cat([rows[:, None], negatives], 1)
        positive = rows[:, None]
        if self.mode == 'relax':
            positive = draw_own(self.samples.classes, classes, noise[:, :1])
        shares = self._shares_on(rows.device)
        if not self.replace:
            negatives = self._distinct(classes, shares)
        elif shares is not None:
            negatives = draw_share(shares, classes, noise[:, 1:])
        else:
            negatives = draw_others(self.samples.classes, classes, noise[:, 1:])
        return torch.cat([positive, negatives], 1)

    def _distinct(self, classes: Tensor, shares: ShareIndex | None) -> Tensor:
        """Different negatives (B, K), for a few images at a time."""
        index = self.samples.classes if shares is None else shares
        images, drawn = len(classes), []
        for part in blocks(images, max(block_elements(classes) // self.num_samples, 1)):
            noise = self.bank.noise(images, 1 + self.num_samples, part)[:, 1:]  # (b, n)
            drawn.append(draw_distinct(index, classes[part], noise, self.negatives))
        return torch.cat(drawn)

    def _shares_on(self, device: torch.device) -> ShareIndex | None:
        if self._shares is not None and self._shares.order.device != device:
            self._shares = ShareIndex(*(x.to(device) for x in self._shares))
        return self._shares


def _name(names: Any, label: int) -> str:
    return repr(names[label]) if label < len(names) else str(label)
