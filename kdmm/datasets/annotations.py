"""Classes and ids of all images of a data set, without loading one."""

import functools
from contextlib import suppress
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from kdmm.datasets.wrappers import leaf_datasets, wrappers
from kdmm.errors import ConfigError

#: Bits of a sample_idx that count within a source; those above are the source's number.
_BITS = 32


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

    `kdmm.StratifiedSubset` keeps the numbers of the whole, MMEngine's subsets (``indices``,
    ``get_subset``) count what is left, and a repeated data set repeats them. Those of joined
    data sets are different after `number_sources`.

    Raises:
        ConfigError: If an image has none, joined data sets have the same ones, or a wrapper numbers
            the images of what it wraps anew.
    """
    _check_wrappers(dataset, where)
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


def number_sources(dataset: Any) -> None:
    """Let the data sets that a `ConcatDataset` joins number their images differently.

    MMEngine's count from 0 each. Here source s counts from ``s * 2^32``, in annotations and so in
    the data samples of a batch; a single source stays as it is. Call it before a loader's workers
    start, as kdmm's Runner does for training data.

    Args:
        dataset: Any, wrappers included.
    """
    sources = _sources(dataset)
    for source, leaf in enumerate(sources):
        if len(sources) > 1 and hasattr(leaf, 'get_data_info'):
            leaf.get_data_info = functools.partial(_numbered, leaf.__class__, leaf, source)


def _numbered(kind: type, leaf: Any, source: int, idx: int) -> dict[str, Any]:
    """The annotation that ``kind`` gives, of an image of this source."""
    info = kind.get_data_info(leaf, idx)  # type: ignore[attr-defined]
    if _is_index(info.get('sample_idx')):
        info['sample_idx'] += source << _BITS
    return info


def _sources(dataset: Any) -> list[Any]:
    """The innermost data sets, each once."""
    return list({id(leaf): leaf for leaf in leaf_datasets(dataset)}.values())


def _check_wrappers(dataset: Any, where: str) -> None:
    """Refuse wrappers behind which the number of an image is not its own.

    Raises:
        ConfigError: Names the wrapper.
    """
    for wrapper in wrappers(dataset):
        name = wrapper.__class__.__name__  # of what a SeededDataset wraps
        if not hasattr(wrapper, 'get_data_info') or isinstance(wrapper, BaseDataset):
            why = 'numbers them anew' if hasattr(wrapper, 'get_data_info') else 'hides it'
            raise ConfigError(
                f'the sample_idx of the images inside of {name}, which {why}',
                key=where,
                fix=f'Leave {name} out, or give it a get_data_info that returns the annotation of '
                'the data set inside.',
            )
    sources = _sources(dataset)
    if len(sources) > 1 and not all(_is_numbered(leaf) for leaf in sources):
        raise ConfigError(
            f'{len(sources)} data sets are joined, and each numbers its images from 0',
            key=where,
            fix="Train with kdmm's Runner, or call kdmm.datasets.number_sources(dataset) before "
            'the loader starts its workers.',
        )


def _is_numbered(leaf: Any) -> bool:
    reader = getattr(leaf, 'get_data_info', None)
    return reader is None or getattr(reader, 'func', None) is _numbered


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
