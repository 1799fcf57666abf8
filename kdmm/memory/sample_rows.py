"""Rows of a bank that belong to the images of a training set, and those of each class."""

import hashlib

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError

from ..functional.negatives import ClassIndex, index_classes


class SampleRows(nn.Module):
    """Rows 0..n-1 for the n different ids of a training set, in the order of the ids.

    Ids may be larger than the data set (a subset of another) or come several times (a repeated
    one). The O(n) numbers kept are in no state: they are read from the data set at each
    start.
    """

    order: Tensor
    size: Tensor
    start: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ClassIndex._fields:
            self.register_buffer(name, torch.zeros(0, dtype=torch.long), persistent=False)
        # on the CPU, where a batch's ids lie
        self._ids = self._labels = torch.zeros(0, dtype=torch.long)
        self._compared = False

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def classes(self) -> ClassIndex:
        """For drawing rows by class, on the module's device."""
        return ClassIndex(self.order, self.size, self.start)

    @property
    def labels(self) -> Tensor:
        """Class of each row (n,), on the CPU; empty if there are none."""
        return self._labels

    def fill(self, ids: Tensor, labels: Tensor | None = None) -> None:
        """Give the ids their rows.

        Args:
            ids: Of all items of the training set, int64 on the CPU.
            labels: Their classes, likewise; None without classes, then there is only `find_rows`.

        Raises:
            ConfigError: If one id has two classes, or all images have one.
        """
        self._ids, row = ids.unique(return_inverse=True)
        if labels is None:
            return
        self._labels = labels.new_empty(len(self._ids)).index_copy_(0, row, labels)
        wrong = (self._labels[row] != labels).nonzero()
        if len(wrong):
            item = int(wrong[0])
            raise ConfigError(
                f'two images of the training set have sample_idx {int(ids[item])}, of class '
                f'{int(labels[item])} and {int(self._labels[row[item]])}',
                fix='Let the data set give each image a sample_idx of its own.',
            )
        try:
            classes = index_classes(self._labels)
        except ValueError as error:
            raise ConfigError(f'the training set: {error}') from error
        for name, value in zip(classes._fields, classes, strict=True):
            setattr(self, name, value.to(self.order.device))

    def fingerprint(self) -> tuple[int, int]:
        """Return 64 bits of the SHA-256 of the ids, in their order, and of their classes.

        They are the same on every machine and in every version of torch, and not 0. Without classes
        the second number is 0.
        """
        return _digest(self._ids), _digest(self._labels) if len(self._labels) else 0

    def find(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and classes (B,) of a batch's images, on the module's device.

        Labels on a GPU are compared with the data set's for the first batch only; ids
        on a GPU cost a device sync.

        Args:
            ids: (B,).
            labels: Classes (B,).

        Raises:
            ConfigError: If the training set was not seen, has no such id, or other labels.
        """
        rows = self._rows(ids.cpu())
        classes = self._labels[rows]
        self._compare(ids.cpu(), labels, classes)
        device = self.order.device
        return rows.to(device), classes.to(device)

    def find_rows(self, ids: Tensor) -> Tensor:
        """Rows (B,) of images by their ids (B,), as `find`, without classes."""
        return self._rows(ids.cpu()).to(self.order.device)

    def _rows(self, ids: Tensor) -> Tensor:
        if not len(self):
            raise ConfigError(
                'the training set was not seen',
                fix='Call see_dataset(dataset) before training, as the hook of a run does.',
            )
        rows = torch.searchsorted(self._ids, ids).clamp_max_(len(self) - 1)
        unknown = self._ids[rows] != ids
        if unknown.any():
            raise ConfigError(f'no image of the training set has sample_idx {int(ids[unknown][0])}')
        return rows

    def _compare(self, ids: Tensor, labels: Tensor, expected: Tensor) -> None:
        if self._compared and labels.is_cuda:
            return
        wrong = labels.cpu() != expected
        if wrong.any():
            raise ConfigError(
                f'the image with sample_idx {int(ids[wrong][0])} has label '
                f'{int(labels[wrong.to(labels.device)][0])} in the batch and '
                f'{int(expected[wrong][0])} in the training set'
            )
        self._compared = True


def _digest(numbers: Tensor) -> int:
    """A number of the range of int64, not 0, for int64 numbers on the CPU."""
    content = numbers.numpy().astype('<i8').tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], 'little', signed=True) or 1
