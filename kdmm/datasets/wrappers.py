"""Data sets that have others inside: repeated, joined, balanced, folds, subsets."""

from collections.abc import Iterator
from typing import Any


def inside(dataset: Any) -> list[Any] | None:
    """Return the data sets directly inside of a wrapper or concatenation, None if it is neither."""
    joined = getattr(dataset, 'datasets', None)
    if isinstance(joined, list | tuple):
        return list(joined)
    wrapped = getattr(dataset, 'dataset', None)
    return None if wrapped is None else [wrapped]


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets inside of wrappers and concatenations."""
    inner = inside(dataset)
    if inner is None:
        yield dataset
    for item in inner or ():
        yield from leaf_datasets(item)


def wrappers(dataset: Any) -> Iterator[Any]:
    """A data set that has others inside, and those of them that have, from the outermost on."""
    inner = inside(dataset)
    if inner:
        yield dataset
    for item in inner or ():
        yield from wrappers(item)
