"""Memory kept for the backward pass, and shapes made in the forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdmm.taps import leaves


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages saved for backward."""
    sizes: dict[int, tuple[Tensor, int]] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = (x, storage.nbytes())  # held, so that no address is reused
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(size for _, size in sizes.values())


class Largest(TorchDispatchMode):
    """Records the largest tensor, in elements, that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in leaves(out):
            self.elements = max(self.elements, x.numel())
        return out
