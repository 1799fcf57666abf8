"""Memory that autograd keeps between the forward and the backward pass."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors, shared storage counted once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


class SavedTensors:
    """Storages that autograd keeps for a backward pass.

    Args:
        without: Tensors whose memory is not counted, such as parameters.
    """

    def __init__(self, without: Iterable[Tensor]) -> None:
        self._without = {x.untyped_storage()._cdata for x in without}
        self._kept: dict[int, tuple[Any, int]] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Count the storages that a block saves."""
        with saved_tensors_hooks(self._keep, lambda x: x):
            yield

    def _keep(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self._without:  # the reference keeps the address from reuse
            self._kept[storage._cdata] = (storage, storage.nbytes())
        return x

    @property
    def total(self) -> int:
        """Bytes of all storages."""
        return sum(size for _, size in self._kept.values())

    @property
    def largest(self) -> int:
        """Bytes of the largest storage."""
        return max((size for _, size in self._kept.values()), default=0)
