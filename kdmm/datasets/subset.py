"""The base of data sets that keep some images of another."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import force_full_init

from kdmm.errors import ConfigError
from kdmm.registry import DATASETS


class LabelledSubset:
    """Wraps a data set of one label an image, and keeps some of its images, in their order.

    A subclass says which ones by `choose`.

    Args:
        dataset: Data set or its config, wrappers included.
        lazy_init: Leave loading the annotations to the first use.

    Raises:
        ConfigError: Images without one label; if no image is kept.
    """

    def __init__(self, dataset: Any, lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Choose images by the labels (N,) of all; return a mask (N,)."""
        raise NotImplementedError

    @property
    def metainfo(self) -> dict[str, Any]:
        """The wrapped data set's."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the annotations and choose."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        labels = self._read_labels()
        self._indices = np.flatnonzero(self.choose(labels))
        if not len(self._indices):
            raise ConfigError(f'of {len(labels)} images none is left', key=type(self).__name__)
        self._fully_initialized = True

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The annotation of image ``idx`` of the subset."""
        return self.dataset.get_data_info(int(self._indices[idx]))

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of image ``idx`` of the subset, as a list of one."""
        return [int(self.get_data_info(idx)['gt_label'])]

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        return self.dataset[int(self._indices[idx])]

    @force_full_init
    def __len__(self) -> int:
        return len(self._indices)

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep some of the images that are kept.

        Args:
            indices: Places in the subset, in the order that is wanted; or how many of the first
                ones, of the last ones if it is negative, as MMEngine's data sets take it.
        """
        if isinstance(indices, int):
            self._indices = self._indices[:indices] if indices >= 0 else self._indices[indices:]
        else:
            self._indices = self._indices[np.asarray(indices, np.int64)]

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> 'LabelledSubset':
        """Return a subset of this one, see `get_subset_`; both read from one wrapped data set.

        Images keep their ``sample_idx``, which those of MMEngine's data sets do not.
        """
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    def _read_labels(self) -> np.ndarray:
        labels = [self.dataset.get_data_info(i).get('gt_label') for i in range(len(self.dataset))]
        for index, label in enumerate(labels):
            if not isinstance(label, (int, np.integer)) or label < 0:
                raise ConfigError(
                    f'the gt_label of image {index} of {type(self.dataset).__name__}',
                    key=f'{type(self).__name__}.dataset',
                    got=label,
                    expected='one class an image, for a share of every class',
                )
        return np.array(labels, np.int64)
