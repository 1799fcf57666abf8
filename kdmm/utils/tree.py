"""Activations as trees: tensors in tuples, lists and dicts, however nested."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an activation in order; anything else is passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def map_leaves(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Build the same tree with ``function`` of each tensor in its place.

    Lists become tuples, and a subclass of tuple that is made from one iterable stays what it is.
    What is neither a tensor nor a container is kept.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(function, item) for item in value]
        named = hasattr(value, '_fields') or isinstance(value, list)  # a namedtuple takes fields
        return tuple(items) if named else type(value)(items)
    return value
