"""Classes and ids of all images of a data set, without loading one."""

from contextlib import suppress
from typing import Any

import numpy as np

from kdmm.errors import ConfigError


def read_labels(dataset: Any, where: str) -> np.ndarray:
    """The class of each image, int64.

    Args:
        dataset: Any, wrappers included.
        where: Who asks, for the error.

    Raises:
        ConfigError: If an image has none, or several.
    """
    found = [_classes_of(dataset, index) for index in range(len(dataset))]
    for index, labels in enumerate(found):
        if len(labels) != 1 or not _is_index(labels[0]):
            raise ConfigError(
                f'the classes of image {index} of {type(dataset).__name__}',
                key=where,
                got=labels,
                expected='one class an image',
                fix='Give a data set that has get_cat_ids, or gt_label in get_data_info.',
            )
    return np.array([labels[0] for labels in found], np.int64)


def read_sample_ids(dataset: Any, where: str) -> np.ndarray:
    """``sample_idx`` of each image, int64: what MMEngine's data sets number their images with.

    A subset keeps the numbers of the whole, and a repeated data set repeats them.

    Raises:
        ConfigError: If an image has none.
    """
    known = hasattr(dataset, 'get_data_info')
    found = [
        dataset.get_data_info(index).get('sample_idx') if known else None
        for index in range(len(dataset))
    ]
    for index, number in enumerate(found):
        if not _is_index(number):
            raise ConfigError(
                f'the sample_idx of image {index} of {type(dataset).__name__}',
                key=where,
                got=number,
                expected='a number from 0 on',
                fix="Give a data set that derives from MMEngine's BaseDataset.",
            )
    return np.array(found, np.int64)


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 0)


def _classes_of(dataset: Any, index: int) -> list[Any]:
    """By ``get_cat_ids``, or by the annotation: MMEngine's own wrappers know only that."""
    if hasattr(dataset, 'get_cat_ids'):
        # not implemented by a data set, or no label for MMPretrain's to convert
        with suppress(NotImplementedError, KeyError, TypeError):
            return list(dataset.get_cat_ids(index))
    if hasattr(dataset, 'get_data_info'):
        return [dataset.get_data_info(index).get('gt_label')]
    return []
